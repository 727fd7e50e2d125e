//! What happens to a volume (`syncVolume` in `pkg/controller/volume/persistentvolume/pv_controller.go`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::binding::unbind;
use crate::change::{About, Change};
use crate::disk::{disk_of, is_provisioned};
use crate::fields::{
    annotation, claim_reference, is_deleting, is_pending, set_volume_phase, text, volume_name, volume_phase,
};
use crate::keys::{self, phase};
use crate::matching::has_other_mode;
use crate::pass::{Pass, VOLUME_CONTROLLER};

/// Sets the phase of a volume, and reclaims it if its claim is gone.
pub(crate) fn sync(pass: &mut Pass<'_>, name: &str) {
    let Some(mut volume) = pass.volumes.get(name).cloned() else {
        return;
    };
    let Some(reference) = claim_reference(&volume).filter(|reference| !text(&reference.uid).is_empty()) else {
        if is_provisioned(&volume) && policy(&volume) == "Delete" && pass.disk(&volume).is_none() {
            // The user has freed it after its disk was deleted.
            return delete(pass, volume);
        }
        // Unused, or reserved for a claim that does not exist yet.
        set_volume_phase(&mut volume, phase::AVAILABLE, "", &pass.state.now);
        return pass.put_volume(volume);
    };
    let key = (text(&reference.namespace).to_owned(), text(&reference.name).to_owned());
    let claim = pass
        .claims
        .get(&key)
        .filter(|claim| claim.metadata.uid == reference.uid);
    match claim.cloned() {
        None => release(pass, volume),
        Some(claim) if volume_name(&claim).is_empty() => {
            if has_other_mode(&volume, &claim) {
                warn_about_mode(pass, &volume, &claim);
            }
        }
        Some(claim) if volume_name(&claim) == name => {
            set_volume_phase(&mut volume, phase::BOUND, "", &pass.state.now);
            pass.put_volume(volume);
        }
        Some(_) if annotation(&volume.metadata, keys::PROVISIONED_BY).is_some() && policy(&volume) == "Delete" => {
            release(pass, volume);
        }
        Some(_) => {
            unbind(&mut volume, pass);
            pass.put_volume(volume);
        }
    }
}

fn warn_about_mode(pass: &mut Pass<'_>, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
    let (own, other) = (text(&volume.metadata.name), text(&claim.metadata.name));
    for (about, message) in [
        (
            About::volume(volume),
            format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {other:?} due to incompatible volumeMode."
            ),
        ),
        (
            About::claim(claim),
            format!(
                "Cannot bind PersistentVolume {own:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
            ),
        ),
    ] {
        pass.wait(about, true, "VolumeMismatch", message, VOLUME_CONTROLLER);
    }
}

pub(crate) fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.map_or("", |spec| text(&spec.persistent_volume_reclaim_policy))
}

/// Releases a volume whose claim is gone, and reclaims it. A failure stays visible while it is tried again.
fn release(pass: &mut Pass<'_>, mut volume: PersistentVolume) {
    if is_provisioned(&volume) && is_pending(volume_phase(&volume)) {
        // No Pod has ever used it, so there is nothing to retain.
        return delete(pass, volume);
    }
    if !matches!(volume_phase(&volume), phase::RELEASED | phase::FAILED) {
        set_volume_phase(&mut volume, phase::RELEASED, "", &pass.state.now);
        pass.put_volume(volume.clone());
    }
    match policy(&volume) {
        "Delete" => delete(pass, volume),
        // No volume of microkube can be recycled (`recycleVolumeOperation`).
        "Recycle" => {
            let message = "No recycler plugin found for the volume!";
            fail(pass, volume, "VolumeFailedRecycle", message);
        }
        _ => {}
    }
}

/// `deleteVolumeOperation`
fn delete(pass: &mut Pass<'_>, volume: PersistentVolume) {
    if disk_of(&volume).is_none() {
        return delete_other(pass, volume);
    }
    if pass.disk(&volume).is_some() && !pass.shares_disk(&volume) {
        return pass.change_disk(&volume, 0, Change::DeleteDisk);
    }
    if !is_deleting(&volume.metadata) {
        pass.delete(Change::DeleteVolume {
            name: text(&volume.metadata.name).to_owned(),
            uid: text(&volume.metadata.uid).to_owned(),
        });
    }
}

/// A volume that is no disk image: its own provisioner deletes it (`findDeletablePlugin`).
fn delete_other(pass: &mut Pass<'_>, volume: PersistentVolume) {
    let name = text(&volume.metadata.name).to_owned();
    let message = match annotation(&volume.metadata, keys::PROVISIONED_BY).unwrap_or_default() {
        "" => format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"),
        plugin if plugin.starts_with(keys::BUILT_IN) => format!("no volume plugin matched name: {plugin}"),
        _ => return,
    };
    fail(pass, volume, "VolumeFailedDelete", &message);
}

/// `updateVolumePhaseWithEvent` with the phase `Failed`.
pub(crate) fn fail(pass: &mut Pass<'_>, mut volume: PersistentVolume, reason: &'static str, message: &str) {
    if volume_phase(&volume) == phase::FAILED {
        return;
    }
    set_volume_phase(&mut volume, phase::FAILED, message, &pass.state.now);
    pass.event(About::volume(&volume), true, reason, message, VOLUME_CONTROLLER);
    pass.put_volume(volume);
}
