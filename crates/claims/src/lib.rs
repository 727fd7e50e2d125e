//! Kubernetes' rules for PersistentVolumes and PersistentVolumeClaims, as pure functions of the objects: binding, dynamic
//! provisioning, access modes, protection, reclaiming, expansion, the claims of ephemeral volumes, and the events about
//! them.
//!
//! There is no controller. Each process that changes a claim, a volume, a class or a Pod calls [`reconcile`], carries out
//! the plan, and repeats both until the plan has no changes. All of this, including the work on disks, needs one lock for
//! the node. If the process dies, the next call continues from the objects and the disks that exist then.
//!
//! Reading and writing objects, disks and events does not belong here.

mod admission;
mod binding;
mod change;
mod claim;
mod class;
mod disk;
mod ephemeral;
mod expansion;
mod failure;
mod fields;
mod keys;
mod matching;
mod pass;
mod pod_claims;
mod pod_volumes;
mod protection;
mod provisioning;
mod scheduling;
mod selector;
mod size;
mod state;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod volume;

pub use admission::{admit_claim, admit_volume};
pub use change::{About, Change, DiskChange, Event};
pub use disk::{Disk, disk_of};
pub use expansion::check_expansion;
pub use failure::disk_failed;
pub use keys::{CLAIM_PROTECTION, DISK_PROTECTION, DRIVER, PROVISIONER, VOLUME_PROTECTION};
pub use pass::Plan;
pub use pod_claims::{check_owner, claim_for, claim_name};
pub use pod_volumes::{BoundVolume, bound_volumes};
pub use protection::uses;
pub use scheduling::Unschedulable;
pub use state::State;

use fields::Key;
use pass::Pass;

/// Applies all rules once. Each object is updated at most once, so its `resourceVersion` can be compared.
///
/// A write that fails ends the plan. If work on a disk fails, the changes of [`disk_failed`] take its place, the disk is
/// added to [`State::failed_disks`], and the other steps are carried out.
#[must_use]
pub fn reconcile(state: &State) -> Plan {
    let mut pass = Pass::new(state);
    for pod in &state.pods {
        ephemeral::create(&mut pass, pod);
    }
    ephemeral::collect(&mut pass);
    let volumes: Vec<String> = pass.volumes.keys().cloned().collect();
    let claims: Vec<Key> = pass.claims.keys().cloned().collect();
    for name in &volumes {
        volume::sync(&mut pass, name);
    }
    for pod in &state.pods {
        scheduling::place(&mut pass, pod);
    }
    for key in &claims {
        claim::sync(&mut pass, key);
        expansion::sync(&mut pass, key);
    }
    for name in &volumes {
        protection::volume(&mut pass, name);
    }
    for key in &claims {
        protection::claim(&mut pass, key);
    }
    pass.finish()
}
