//! Finalizers that keep claims, volumes and disks while they are in use
//! (`pkg/controller/volume/{pvcprotection,pvprotection}`, `HonorPVReclaimPolicy` in `pv_controller.go`).

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::change::Change;
use crate::disk::is_provisioned;
use crate::fields::{Key, add_finalizer, has_finalizer, is_deleting, is_on_node, key, remove_finalizer, volume_phase};
use crate::keys::{CLAIM_PROTECTION, DISK_PROTECTION, VOLUME_PROTECTION, phase};
use crate::pass::Pass;
use crate::pod_claims::{check_owner, pod_claims};
use crate::volume::policy;

/// Adds the finalizer to a claim, or removes it from a deleted claim that no Pod uses.
pub(crate) fn claim(pass: &mut Pass<'_>, own: &Key) {
    let Some(claim) = pass.claims.get(own) else { return };
    let mut next = claim.clone();
    if !is_deleting(&claim.metadata) {
        add_finalizer(&mut next.metadata, CLAIM_PROTECTION);
    } else if has_finalizer(&claim.metadata, CLAIM_PROTECTION) && !is_used(pass, claim) {
        remove_finalizer(&mut next.metadata, CLAIM_PROTECTION);
    }
    pass.put_claim(next);
}

fn is_used(pass: &Pass<'_>, claim: &PersistentVolumeClaim) -> bool {
    let users = pass.users(&key(&claim.metadata));
    users.iter().any(|pod| uses(pod, claim))
}

/// Whether a Pod uses a claim (`podUsesPVC`): also one that has ended, until it is deleted.
#[must_use]
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let own = key(&claim.metadata);
    let mut claims = pod_claims(pod).into_iter().filter(|used| used.key == own);
    is_on_node(pod) && claims.any(|used| !used.is_ephemeral || (!is_shut_down(pod) && check_owner(pod, claim).is_ok()))
}

/// `podIsShutDown`: waits only for its finalizers, one of which may wait for the claim.
fn is_shut_down(pod: &Pod) -> bool {
    is_deleting(&pod.metadata) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

/// Adds the finalizers to a volume, or removes them from a deleted volume that is not bound and whose disk is gone. The
/// disk of a volume with the policy `Delete` is deleted first, even if the volume's deletion precedes that of its claim.
pub(crate) fn volume(pass: &mut Pass<'_>, name: &str) {
    let Some(volume) = pass.volumes.get(name).cloned() else {
        return;
    };
    let mut next = volume.clone();
    let deletes = policy(&volume) == "Delete";
    if !is_deleting(&volume.metadata) {
        add_finalizer(&mut next.metadata, VOLUME_PROTECTION);
        if deletes && is_provisioned(&volume) {
            add_finalizer(&mut next.metadata, DISK_PROTECTION);
        } else {
            remove_finalizer(&mut next.metadata, DISK_PROTECTION);
        }
        return pass.put_volume(next);
    }
    // A volume that was created by hand and never bound leaves its disk alone.
    let was_claimed = matches!(volume_phase(&volume), phase::RELEASED | phase::FAILED);
    if volume_phase(&volume) == phase::BOUND {
        return;
    }
    let has_own_disk = pass.disk(&volume).is_some() && !pass.shares_disk(&volume);
    if deletes && has_own_disk && (was_claimed || is_provisioned(&volume)) {
        return pass.change_disk(&volume, 0, Change::DeleteDisk);
    }
    remove_finalizer(&mut next.metadata, VOLUME_PROTECTION);
    remove_finalizer(&mut next.metadata, DISK_PROTECTION);
    pass.put_volume(next);
}
