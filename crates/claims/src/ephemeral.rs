//! Claims of Pods' ephemeral volumes: they are created for their Pods, and deleted after them
//! (`pkg/controller/volume/ephemeral/controller.go`, `pkg/controller/garbagecollector`).

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::admission::admit_claim;
use crate::change::{About, Change};
use crate::fields::{is_deleting, text};
use crate::pass::{EPHEMERAL_CONTROLLER, Pass};
use crate::pod_claims::{check_owner, claim_for, pod_claims};

/// Creates the claims of a Pod that are missing.
pub(crate) fn create(pass: &mut Pass<'_>, pod: &Pod) {
    if is_deleting(&pod.metadata) {
        return;
    }
    for own in pod_claims(pod).into_iter().filter(|own| own.is_ephemeral) {
        match pass.claims.get(&own.key) {
            Some(claim) => {
                if let Err(problem) = check_owner(pod, claim) {
                    let message = format!("ephemeral volume {}: {problem}", own.volume.name);
                    return pass.wait(About::pod(pod), true, "FailedBinding", message, EPHEMERAL_CONTROLLER);
                }
            }
            None => {
                if let Some(mut claim) = claim_for(pod, own.volume) {
                    admit_claim(&mut claim, &pass.state.classes);
                    pass.create(Change::CreateClaim(Box::new(claim)));
                }
            }
        }
    }
}

/// Deletes the claims whose Pods are gone.
pub(crate) fn collect(pass: &mut Pass<'_>) {
    let pods = pass.state.pods.iter().map(|pod| &pod.metadata);
    let existing: HashSet<(&str, &str)> = pods
        .map(|metadata| (text(&metadata.namespace), text(&metadata.uid)))
        .collect();
    let is_orphan = |claim: &&PersistentVolumeClaim| {
        let metadata = &claim.metadata;
        let owners = metadata.owner_references.as_deref().unwrap_or_default();
        let is_gone = |kind: &str, uid: &str| kind == "Pod" && !existing.contains(&(text(&metadata.namespace), uid));
        !owners.is_empty()
            && owners
                .iter()
                .all(|owner| owner.api_version == "v1" && is_gone(&owner.kind, &owner.uid))
            && !is_deleting(metadata)
    };
    let orphans = pass.claims.values().filter(is_orphan);
    let deletions: Vec<Change> = orphans
        .map(|claim| Change::DeleteClaim {
            namespace: text(&claim.metadata.namespace).to_owned(),
            name: text(&claim.metadata.name).to_owned(),
            uid: text(&claim.metadata.uid).to_owned(),
        })
        .collect();
    deletions.into_iter().for_each(|deletion| pass.delete(deletion));
}
