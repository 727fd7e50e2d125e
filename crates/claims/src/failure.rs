//! What follows from work on a disk that failed.

use crate::change::{About, Change, DiskChange, Event};
use crate::class;
use crate::expansion;
use crate::fields::{claim_reference, is_bound_to, is_pending, text, volume_phase};
use crate::pass::{EXPAND_CONTROLLER, Pass, VOLUME_CONTROLLER, event};
use crate::provisioning;
use crate::state::State;
use crate::volume::fail;

/// The changes that take the place of work on a disk that has failed with this error. Empty if the step is no work on a
/// disk, or its objects are gone. `state` has the objects as they are now: the plan has changed some of them.
#[must_use]
pub fn disk_failed(state: &State, step: &Change, error: &str) -> Vec<Change> {
    let mut pass = Pass::new(state);
    match step {
        Change::CreateDisk(disk) => creation(&pass, disk, error).map(Change::Event).into_iter().collect(),
        Change::GrowDisk(disk) => growth(&pass, disk, error).map(Change::Event).into_iter().collect(),
        Change::DeleteDisk(disk) => {
            match pass.volumes.get(&disk.volume).cloned() {
                // It was never bound, and stays so: another phase would make its policy apply.
                Some(volume) if is_pending(volume_phase(&volume)) => {
                    let about = About::volume(&volume);
                    pass.event(about, true, "VolumeFailedDelete", error, VOLUME_CONTROLLER);
                }
                Some(volume) => fail(&mut pass, volume, "VolumeFailedDelete", error),
                None => {}
            }
            pass.finish().changes
        }
        _ => Vec::new(),
    }
}

/// `provisionClaimOperation` in `pv_controller.go`
fn creation(pass: &Pass<'_>, disk: &DiskChange, error: &str) -> Option<Event> {
    let claim = claim_of(pass, disk)?;
    let message = provisioning::failure(class::of_claim(claim), error);
    let about = About::claim(claim);
    Some(event(about, true, "ProvisioningFailed", message, VOLUME_CONTROLLER))
}

fn growth(pass: &Pass<'_>, disk: &DiskChange, error: &str) -> Option<Event> {
    let claim = claim_of(pass, disk)?;
    let message = expansion::failure(claim, error);
    let about = About::claim(claim);
    Some(event(about, true, "VolumeResizeFailed", message, EXPAND_CONTROLLER))
}

fn claim_of<'p>(
    pass: &'p Pass<'_>,
    disk: &DiskChange,
) -> Option<&'p k8s_openapi::api::core::v1::PersistentVolumeClaim> {
    let volume = pass.volumes.get(&disk.volume)?;
    let reference = claim_reference(volume)?;
    let key = (text(&reference.namespace).to_owned(), text(&reference.name).to_owned());
    pass.claims.get(&key).filter(|claim| is_bound_to(volume, claim))
}
