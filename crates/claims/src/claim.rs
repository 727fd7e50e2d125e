//! What happens to a claim (`syncClaim` in `pkg/controller/volume/persistentvolume/pv_controller.go`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::binding::{bind, set_claim_phase};
use crate::change::{About, Change};
use crate::class;
use crate::disk::is_provisioned;
use crate::fields::{
    Key, annotation, capacity, claim_phase, claim_reference, is_bound_to, is_deleting, is_pending, is_terminal,
    storage, text, volume_name, volume_phase,
};
use crate::keys::{self, phase};
use crate::matching::{self, Search};
use crate::pass::{Pass, VOLUME_CONTROLLER};
use crate::provisioning::provision;
use crate::size::disk_bytes;

/// Binds a claim, or says why it is not bound.
pub(crate) fn sync(pass: &mut Pass<'_>, key: &Key) {
    let Some(claim) = pass.claims.get(key).cloned() else {
        return;
    };
    if annotation(&claim.metadata, keys::BIND_COMPLETED).is_some() {
        bound(pass, claim);
    } else if let Some(volume) = half_bound(pass, &claim) {
        bind(pass, volume, claim);
    } else if is_deleting(&claim.metadata) {
        // Unlike in Kubernetes, it gets no volume.
    } else if volume_name(&claim).is_empty() {
        unbound(pass, claim);
    } else {
        named(pass, claim);
    }
}

/// The volume that was bound to a claim by a process that died before it wrote the claim. Since then, each of the two
/// may have been deleted, or may not suit the other any more.
fn half_bound(pass: &Pass<'_>, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let is_half_bound = |volume: &&PersistentVolume| {
        let own = text(&volume.metadata.name);
        volume_phase(volume) == phase::BOUND
            && is_bound_to(volume, claim)
            && (volume_name(claim).is_empty() || volume_name(claim) == own)
    };
    pass.volumes.values().find(is_half_bound).cloned()
}

/// `syncUnboundClaim` for a claim that does not name its volume.
fn unbound(pass: &mut Pass<'_>, mut claim: PersistentVolumeClaim) {
    loop {
        let waits = class::waits_for_consumer(&claim, pass.state);
        let search = if waits { Search::Reserved } else { Search::Immediate };
        if let Some(volume) = matching::best(&claim, pass.volumes.values(), search, &BTreeSet::new()) {
            let volume = volume.clone();
            if is_provisioned(&volume) && is_pending(volume_phase(&volume)) {
                let bytes = disk_bytes(storage(capacity(&volume))).unwrap_or_default();
                match pass.disk(&volume) {
                    None => return pass.change_disk(&volume, bytes, Change::CreateDisk),
                    Some(disk) if disk.bytes < bytes => return pass.change_disk(&volume, bytes, Change::GrowDisk),
                    Some(_) => {}
                }
            }
            return bind(pass, volume, claim);
        }
        if !class::assign_default(&mut claim, &pass.state.classes) {
            break;
        }
    }
    set_claim_phase(&mut claim, phase::PENDING, None);
    pass.put_claim(claim.clone());
    let waits = class::waits_for_consumer(&claim, pass.state);
    if waits && annotation(&claim.metadata, keys::SELECTED_NODE).is_none() {
        wait_for_consumer(pass, &claim);
    } else if !class::of_claim(&claim).is_empty() {
        provision(pass, claim);
    } else {
        let message = "no persistent volumes available for this claim and no storage class is set";
        pass.wait(About::claim(&claim), false, "FailedBinding", message, VOLUME_CONTROLLER);
    }
}

/// `emitEventForUnboundDelayBindingClaim`
fn wait_for_consumer(pass: &mut Pass<'_>, claim: &PersistentVolumeClaim) {
    let key = crate::fields::key(&claim.metadata);
    let users = pass.users(&key).iter().filter(|pod| !is_terminal(pod));
    // Pods whose scheduling has not begun, or fails for another reason.
    let names: Vec<&str> = users.map(|pod| text(&pod.metadata.name)).collect();
    let (reason, message) = match names.as_slice() {
        [] => (
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding".to_owned(),
        ),
        [name] => ("WaitForPodScheduled", format!("waiting for pod {name} to be scheduled")),
        names => (
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", names.join(",")),
        ),
    };
    pass.wait(About::claim(claim), false, reason, message, VOLUME_CONTROLLER);
}

/// `syncUnboundClaim` for a claim that names its volume.
fn named(pass: &mut Pass<'_>, mut claim: PersistentVolumeClaim) {
    let name = volume_name(&claim).to_owned();
    let problem = match pass.volumes.get(&name).cloned() {
        None => None,
        Some(volume) if claim_reference(&volume).is_none() => match matching::mismatch(&volume, &claim) {
            None => return bind(pass, volume, claim),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                Some(("VolumeMismatch", message))
            }
        },
        Some(volume) if is_bound_to(&volume, &claim) => return bind(pass, volume, claim),
        Some(_) => {
            let message = format!("volume {name:?} already bound to a different claim.");
            Some(("FailedBinding", message))
        }
    };
    if let Some((reason, message)) = problem {
        pass.wait(About::claim(&claim), true, reason, message, VOLUME_CONTROLLER);
    }
    set_claim_phase(&mut claim, phase::PENDING, None);
    pass.put_claim(claim);
}

/// `syncBoundClaim`
fn bound(pass: &mut Pass<'_>, claim: PersistentVolumeClaim) {
    let name = volume_name(&claim);
    if name.is_empty() {
        let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        return lose(pass, claim, "ClaimLost", message);
    }
    let Some(volume) = pass.volumes.get(name).cloned() else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lose(pass, claim, "ClaimLost", message);
    };
    match claim_reference(&volume) {
        Some(reference) if reference.uid != claim.metadata.uid => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly";
            lose(pass, claim, "ClaimMisbound", message);
        }
        _ => bind(pass, volume, claim),
    }
}

/// `updateClaimStatusWithEvent` with the phase `Lost`.
fn lose(pass: &mut Pass<'_>, mut claim: PersistentVolumeClaim, reason: &'static str, message: &str) {
    if claim_phase(&claim) == phase::LOST {
        return;
    }
    set_claim_phase(&mut claim, phase::LOST, None);
    pass.event(About::claim(&claim), true, reason, message, VOLUME_CONTROLLER);
    pass.put_claim(claim);
}
