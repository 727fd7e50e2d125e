//! Which volume suits a claim (`FindMatchingVolume` and `findByClaim` in `component-helpers/storage/volume/pv_helpers.go`
//! and `pkg/controller/volume/persistentvolume/index.go`).
//!
//! Node affinity is not compared: there is one node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::class;
use crate::fields::{
    capacity, claim_modes, claim_reference, is_block, is_bound_to, is_deleting, requests, storage, text, volume_modes,
    volume_phase,
};
use crate::keys::phase;
use crate::selector;

/// Who looks for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// A claim that is bound at once.
    Immediate,
    /// A claim that waits for a Pod: only a volume that is reserved for it.
    Reserved,
    /// A Pod with a claim that waited for it.
    ForPod,
}

/// The best volume for a claim: one that is reserved for it, otherwise the smallest that is large enough. Volumes with
/// fewer access modes are preferred if the claim is bound at once. Equal volumes are taken in order.
///
/// Kubernetes looks for reserved volumes only among those with the fewest modes first. Here a reserved volume always
/// precedes others, as documented.
pub(crate) fn best<'v>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'v PersistentVolume>,
    search: Search,
    taken: &BTreeSet<String>,
) -> Option<&'v PersistentVolume> {
    let fitting: Vec<&PersistentVolume> = volumes
        .filter(|volume| !taken.contains(text(&volume.metadata.name)) && can_hold(volume, claim))
        .collect();
    let reserved = fitting.iter().copied().find(|volume| is_bound_to(volume, claim));
    if reserved.is_some() || search == Search::Reserved {
        return reserved;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let is_free = |volume: &&PersistentVolume| {
        claim_reference(volume).is_none()
            && volume_phase(volume) == phase::AVAILABLE
            && selector.is_none_or(|selector| selector::matches(selector, volume.metadata.labels.as_ref()))
            && class::of_volume(volume) == class::of_claim(claim)
    };
    let preference = |volume: &&PersistentVolume| {
        let modes = match search {
            Search::Immediate => volume_modes(volume).iter().collect::<BTreeSet<_>>().len(),
            Search::Reserved | Search::ForPod => 0,
        };
        (modes, storage(capacity(volume)))
    };
    fitting.into_iter().filter(is_free).min_by_key(preference)
}

/// The rules for all volumes, also for reserved ones.
fn can_hold(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    (claim_reference(volume).is_none() || is_bound_to(volume, claim))
        && storage(capacity(volume)) >= storage(requests(claim))
        && !has_other_mode(volume, claim)
        && !is_deleting(&volume.metadata)
        && has_access_modes(volume, claim)
}

/// `CheckVolumeModeMismatches`
pub(crate) fn has_other_mode(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let own = volume.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_ref());
    is_block(own) != is_block(wanted)
}

/// `CheckAccessModes`: whether the volume has all modes that the claim wants.
pub(crate) fn has_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let own = volume_modes(volume);
    claim_modes(claim).iter().all(|mode| own.contains(mode))
}

/// `checkVolumeSatisfyClaim`: why the volume that a claim names does not suit it (`pv_controller.go`).
pub(crate) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let reason = if is_deleting(&volume.metadata) {
        return Some(format!(
            "the volume is marked for deletion {:?}",
            text(&volume.metadata.name)
        ));
    } else if storage(capacity(volume)).units() < storage(requests(claim)).units() {
        "requested PV is too small"
    } else if class::of_volume(volume) != class::of_claim(claim) {
        "storageClassName does not match"
    } else if has_other_mode(volume, claim) {
        "incompatible volumeMode"
    } else if !has_access_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(reason.to_owned())
}
