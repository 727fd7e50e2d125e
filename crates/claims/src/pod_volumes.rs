//! The PersistentVolumes of a Pod that is about to start.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::fields::{text, volume_modes, volume_name};
use crate::pass::Pass;
use crate::pod_claims::pod_claims;
use crate::scheduling::{Unschedulable, is_being_provisioned, placement};
use crate::state::State;

/// A volume of a Pod, with its claim and the PersistentVolume behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct BoundVolume {
    /// The name of the Pod's volume.
    pub name: String,
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
    /// Whether all mounts are read-only.
    pub read_only: bool,
}

/// The volumes of a Pod whose claims are all bound, in the Pod's order.
///
/// # Errors
/// If the Pod must wait, or cannot start at all.
pub fn bound_volumes(state: &State, pod: &Pod) -> Result<Vec<BoundVolume>, Unschedulable> {
    let pass = Pass::new(state);
    placement(&pass, pod)?;
    let mut found = Vec::new();
    for own in pod_claims(pod) {
        // `placement` has found all claims, and the volumes of bound ones.
        let Some(claim) = pass.claims.get(&own.key) else {
            continue;
        };
        let volume = pass.volumes.get(volume_name(claim));
        let Some(volume) = volume.filter(|_| !is_being_provisioned(claim)) else {
            return Err(Unschedulable::provisioning(text(&claim.metadata.name)));
        };
        found.push(BoundVolume {
            name: own.volume.name.clone(),
            claim: claim.clone(),
            volume: volume.clone(),
            read_only: own.read_only || is_read_only(volume),
        });
    }
    Ok(found)
}

/// Whether the volume can only be read. CSI drivers get such volumes as `MULTI_NODE_READER_ONLY`
/// (`getCSIAccessMode` in `pkg/volume/csi`).
fn is_read_only(volume: &PersistentVolume) -> bool {
    let modes = volume_modes(volume);
    !modes.is_empty() && modes.iter().all(|mode| mode == "ReadOnlyMany")
}
