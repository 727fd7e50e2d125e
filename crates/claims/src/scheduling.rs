//! Whether a Pod can start with its claims, and the volumes for claims that waited for it
//! (`pkg/scheduler/framework/plugins/{volumebinding,volumerestrictions}`).

use std::collections::BTreeSet;
use std::fmt;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::binding::reserve;
use crate::change::{About, Event};
use crate::class;
use crate::fields::{
    Key, annotate, annotation, claim_modes, claim_phase, is_deleting, is_fully_bound, is_on_node, is_terminal,
    requests, storage, text, volume_name,
};
use crate::keys::{self, NO_PROVISIONER, SELECTED_NODE, phase};
use crate::matching::{self, Search};
use crate::pass::{Pass, SCHEDULER, event};
use crate::pod_claims::{PodClaim, check_owner, pod_claims};

/// Why a Pod cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Unschedulable {
    reason: String,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The Pod fits no node.
    PreFilter,
    /// The Pod does not fit this node.
    Filter { preemption_helps: bool },
    /// The Pod fits, but its volumes could not be created.
    PreBind,
}

/// The message of the event `FailedScheduling` and of the condition `PodScheduled`
/// (`FitError` in `pkg/scheduler/framework/types.go`, `pkg/scheduler/framework/preemption/preemption.go`).
impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, stage } = self;
        let useless = "Preemption is not helpful for scheduling";
        let (count, preemption) = match stage {
            Stage::PreFilter => ("", useless),
            Stage::Filter {
                preemption_helps: false,
            } => ("1 ", useless),
            Stage::Filter { preemption_helps: true } => ("1 ", "No preemption victims found for incoming pod"),
            Stage::PreBind => return write!(f, "running PreBind plugin \"VolumeBinding\": binding volumes: {reason}"),
        };
        write!(
            f,
            "0/1 nodes are available: {count}{reason}. preemption: 0/1 nodes are available: 1 {preemption}."
        )
    }
}

impl Unschedulable {
    fn no_node(reason: impl Into<String>) -> Self {
        let (reason, stage) = (reason.into(), Stage::PreFilter);
        Self { reason, stage }
    }

    fn not_here(reason: &str, preemption_helps: bool) -> Self {
        let (reason, stage) = (reason.to_owned(), Stage::Filter { preemption_helps });
        Self { reason, stage }
    }

    /// A claim that waits for its new volume.
    pub(crate) fn provisioning(claim: &str) -> Self {
        let (reason, stage) = (format!("provisioning failed for PVC {claim:?}"), Stage::PreBind);
        Self { reason, stage }
    }

    /// The reason without the counts of nodes.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the attempt to place the Pod failed itself. The condition `PodScheduled` then has the reason
    /// `SchedulerError` instead of `Unschedulable` (`handleSchedulingFailure` in `pkg/scheduler/schedule_one.go`).
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.stage == Stage::PreBind
    }

    /// The scheduler's event about the Pod.
    #[must_use]
    pub fn event(&self, pod: &Pod) -> Event {
        event(About::pod(pod), true, "FailedScheduling", self.to_string(), SCHEDULER)
    }
}

/// The volumes for the claims that waited for a Pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placement {
    /// Claims with existing volumes.
    matches: Vec<(Key, String)>,
    /// Claims that need new volumes.
    provisions: Vec<Key>,
}

/// Chooses volumes for the claims of a Pod that waited for it, or says why the Pod cannot start.
pub(crate) fn place(pass: &mut Pass<'_>, pod: &Pod) {
    if !is_consumer(pod) || pod_claims(pod).is_empty() {
        return;
    }
    match placement(pass, pod) {
        Ok(placement) => apply(pass, placement),
        Err(problem) if !is_scheduled(pod) => pass.wait_as(problem.event(pod)),
        Err(_) => {}
    }
}

/// Whether claims may be bound for a Pod.
fn is_consumer(pod: &Pod) -> bool {
    is_on_node(pod) && !is_terminal(pod) && !is_deleting(&pod.metadata)
}

/// Whether the Pod's volumes have been chosen.
fn is_scheduled(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut scheduled = conditions.filter(|own| own.type_ == "PodScheduled");
    scheduled.any(|own| own.status == "True")
}

fn apply(pass: &mut Pass<'_>, placement: Placement) {
    for (key, name) in placement.matches {
        if let (Some(claim), Some(volume)) = (pass.claims.get(&key), pass.volumes.get(&name)) {
            let mut volume = volume.clone();
            reserve(&mut volume, claim);
            pass.put_volume(volume);
        }
    }
    for key in placement.provisions {
        if let Some(claim) = pass.claims.get(&key) {
            let mut claim = claim.clone();
            annotate(&mut claim.metadata, SELECTED_NODE, &pass.state.node);
            pass.put_claim(claim);
        }
    }
}

/// Checks all claims of a Pod in the scheduler's order.
pub(crate) fn placement(pass: &Pass<'_>, pod: &Pod) -> Result<Placement, Unschedulable> {
    let mut claims = Vec::new();
    for own in pod_claims(pod) {
        claims.push(usable(pass, pod, &own)?);
    }
    let waits =
        |claim: &&PersistentVolumeClaim| volume_name(claim).is_empty() && class::waits_for_consumer(claim, pass.state);
    let unbound: Vec<&PersistentVolumeClaim> = claims.iter().copied().filter(|claim| !is_fully_bound(claim)).collect();
    if !unbound.iter().all(waits) {
        return Err(Unschedulable::no_node(
            "pod has unbound immediate PersistentVolumeClaims",
        ));
    }
    for claim in &claims {
        if is_exclusive(claim) && !is_scheduled(pod) && has_other_user(pass, claim, pod) {
            let reason = "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Err(Unschedulable::not_here(reason, true));
        }
    }
    let is_gone = |claim: &&PersistentVolumeClaim| !pass.volumes.contains_key(volume_name(claim));
    if claims.iter().any(|claim| is_fully_bound(claim) && is_gone(claim)) {
        let reason = "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)";
        return Err(Unschedulable::not_here(reason, false));
    }
    volumes_for(pass, unbound)
}

/// `podHasPVCs`: a claim that exists and is not lost, or the reason why the Pod cannot use it.
fn usable<'p>(pass: &'p Pass<'_>, pod: &Pod, own: &PodClaim<'_>) -> Result<&'p PersistentVolumeClaim, Unschedulable> {
    let name = &own.key.1;
    let Some(claim) = pass.claims.get(&own.key) else {
        return Err(Unschedulable::no_node(if own.is_ephemeral {
            format!("waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}")
        } else {
            format!("persistentvolumeclaim {name:?} not found")
        }));
    };
    if claim_phase(claim) == phase::LOST {
        let volume = volume_name(claim);
        return Err(Unschedulable::no_node(format!(
            "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
        )));
    }
    if is_deleting(&claim.metadata) {
        return Err(Unschedulable::no_node(format!(
            "persistentvolumeclaim {name:?} is being deleted"
        )));
    }
    if own.is_ephemeral {
        check_owner(pod, claim).map_err(Unschedulable::no_node)?;
    }
    Ok(claim)
}

fn is_exclusive(claim: &PersistentVolumeClaim) -> bool {
    claim_modes(claim).iter().any(|mode| mode == "ReadWriteOncePod")
}

/// Whether another Pod that has not ended uses the claim. Among Pods that have not been scheduled yet, the oldest has it.
fn has_other_user(pass: &Pass<'_>, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    let age = |pod: &Pod| (pod.metadata.creation_timestamp.clone(), pod.metadata.uid.clone());
    let users = pass.users(&crate::fields::key(&claim.metadata)).iter();
    let mut others = users.filter(|other| other.metadata.uid != pod.metadata.uid);
    others.any(|other| is_on_node(other) && !is_terminal(other) && (is_scheduled(other) || age(other) < age(pod)))
}

/// `FindPodVolumes` for claims that waited for the Pod.
fn volumes_for(pass: &Pass<'_>, mut claims: Vec<&PersistentVolumeClaim>) -> Result<Placement, Unschedulable> {
    // `byPVCSize`: small claims choose first, and take the smallest volumes.
    claims.sort_by_key(|claim| storage(requests(claim)));
    let mut placement = Placement::default();
    let mut taken = BTreeSet::new();
    for claim in claims {
        let key = crate::fields::key(&claim.metadata);
        if annotation(&claim.metadata, SELECTED_NODE).is_some() {
            continue;
        }
        if let Some(volume) = matching::best(claim, pass.volumes.values(), Search::ForPod, &taken) {
            let name = text(&volume.metadata.name).to_owned();
            taken.insert(name.clone());
            placement.matches.push((key, name));
            continue;
        }
        let class = pass.state.class(class::of_claim(claim));
        if class.is_none_or(|class| matches!(class.provisioner.as_str(), "" | NO_PROVISIONER)) {
            let reason = "node(s) didn't find available persistent volumes to bind";
            return Err(Unschedulable::not_here(reason, false));
        }
        placement.provisions.push(key);
    }
    Ok(placement)
}

/// Whether the claim has been provisioned for a Pod, but is not bound yet.
pub(crate) fn is_being_provisioned(claim: &PersistentVolumeClaim) -> bool {
    !is_fully_bound(claim) && annotation(&claim.metadata, keys::SELECTED_NODE).is_some()
}
