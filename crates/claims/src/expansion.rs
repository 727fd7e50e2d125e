//! Larger requests of bound claims: which are allowed, and how a volume grows
//! (`plugin/pkg/admission/storage/persistentvolume/resize/admission.go`, `pkg/controller/volume/expand`,
//! `pkg/volume/util/resize_util.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimCondition, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::change::{About, Change};
use crate::class;
use crate::disk::disk_of;
use crate::fields::{
    Amounts, Key, annotate, capacity, claim_phase, claim_reference, qualified, requests, storage, text, volume_name,
};
use crate::keys::{self, PROVISIONER, STORAGE, phase};
use crate::pass::{EXPAND_CONTROLLER, Pass};
use crate::size::{OUT_OF_RANGE, capacity_of, disk_bytes};

const RESIZING: &str = "Resizing";
const FILE_SYSTEM_PENDING: &str = "FileSystemResizePending";
const IN_PROGRESS: &str = "ControllerResizeInProgress";
const PENDING_ON_NODE: &str = "NodeResizePending";

/// Checks the request of a changed claim. Validation refuses smaller requests.
///
/// # Errors
/// The reason why the change is forbidden.
pub fn check_expansion(
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
    classes: &[StorageClass],
) -> Result<(), &'static str> {
    if storage(requests(new)) <= storage(requests(old)) {
        return Ok(());
    }
    if claim_phase(old) != phase::BOUND {
        return Err("Only bound persistent volume claims can be expanded");
    }
    let (name, old_name) = (class::of_claim(new), class::of_claim(old));
    let class = classes.iter().find(|class| text(&class.metadata.name) == name);
    let allows = class.is_some_and(|class| class.allow_volume_expansion == Some(true));
    if name.is_empty() || name != old_name || !allows {
        return Err(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        );
    }
    Ok(())
}

/// Grows the volume of a claim that requests more than it has.
pub(crate) fn sync(pass: &mut Pass<'_>, key: &Key) {
    let Some(claim) = pass.claims.get(key).cloned() else {
        return;
    };
    let Some(volume) = pass.volumes.get(volume_name(&claim)).cloned() else {
        return;
    };
    let is_bound = claim_phase(&claim) == phase::BOUND
        && claim_reference(&volume).is_some_and(|reference| reference.uid == claim.metadata.uid);
    if !is_bound {
        return;
    }
    let status = claim.status.clone().unwrap_or_default();
    let wanted = storage(requests(&claim));
    if wanted <= storage(status.capacity.as_ref()) {
        // Done, or the request was lowered again.
        let mut next = claim;
        if is_resizing(&status) {
            finish(next.status.get_or_insert_default());
            pass.put_claim(next);
        }
        return;
    }
    if disk_of(&volume).is_none() {
        let message = "waiting for an external controller to expand this PVC";
        let about = About::claim(&claim);
        return pass.wait(about, false, "ExternalExpanding", message, EXPAND_CONTROLLER);
    }
    let Some(bytes) = disk_bytes(wanted) else {
        let (about, message) = (About::claim(&claim), failure(&claim, OUT_OF_RANGE));
        return pass.wait(about, true, "VolumeResizeFailed", message, EXPAND_CONTROLLER);
    };
    let Some(disk) = pass.disk(&volume) else { return };
    if disk.bytes < bytes {
        begin(pass, claim, &volume, bytes);
    } else {
        grown(pass, claim, volume, disk.bytes, disk.has_smaller_file_system);
    }
}

/// The message about a claim that cannot grow (`GenerateExpandVolumeFunc` in
/// `pkg/volume/util/operationexecutor/operation_generator.go`).
pub(crate) fn failure(claim: &PersistentVolumeClaim, problem: &str) -> String {
    let name = qualified(&claim.metadata);
    format!("error expanding volume {name:?} of plugin {PROVISIONER:?}: {problem}")
}

/// `MarkControllerResizeInProgress`
fn begin(pass: &mut Pass<'_>, mut claim: PersistentVolumeClaim, volume: &PersistentVolume, bytes: u64) {
    let requested = requests(&claim).and_then(|requests| requests.get(STORAGE)).cloned();
    annotate(&mut claim.metadata, keys::STORAGE_RESIZER, PROVISIONER);
    let status = claim.status.get_or_insert_default();
    set_condition(status, RESIZING, None, &pass.state.now);
    if let Some(requested) = requested {
        status.allocated_resources = Some(Amounts::from([(STORAGE.to_owned(), requested)]));
    }
    status.allocated_resource_statuses = Some(BTreeMap::from([(STORAGE.to_owned(), IN_PROGRESS.to_owned())]));
    pass.put_claim(claim);
    pass.change_disk(volume, bytes, Change::GrowDisk);
}

/// The disk has its size; its file system may grow later.
fn grown(
    pass: &mut Pass<'_>,
    mut claim: PersistentVolumeClaim,
    mut volume: PersistentVolume,
    bytes: u64,
    is_pending: bool,
) {
    let size = capacity_of(requests(&claim), bytes);
    let amounts = Amounts::from([(STORAGE.to_owned(), size)]);
    if storage(capacity(&volume)) != storage(Some(&amounts)) {
        // `UpdatePVSize`
        volume.spec.get_or_insert_default().capacity = Some(amounts.clone());
        pass.put_volume(volume.clone());
    }
    let about = About::claim(&claim);
    let name = qualified(&claim.metadata);
    let status = claim.status.get_or_insert_default();
    let was_pending = has_condition(status, FILE_SYSTEM_PENDING);
    if is_pending {
        // `MarkForFSResize`
        let message = "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
        set_condition(status, FILE_SYSTEM_PENDING, Some(message), &pass.state.now);
        status.allocated_resource_statuses = Some(BTreeMap::from([(STORAGE.to_owned(), PENDING_ON_NODE.to_owned())]));
        pass.put_claim(claim);
        if !was_pending {
            // `markForPendingNodeExpansion` in kubernetes-csi/external-resizer
            let message = "Require file system resize of volume on node";
            pass.event(about, false, "FileSystemResizeRequired", message, EXPAND_CONTROLLER);
        }
        return;
    }
    // `MarkFSResizeFinished`
    status.capacity = Some(amounts);
    finish(status);
    pass.put_claim(claim);
    let (reason, message) = if was_pending {
        // `nodeExpandVolume` in `pkg/volume/util/operationexecutor/operation_generator.go`
        let volume = text(&volume.metadata.name);
        let node = &pass.state.node;
        let message = format!("MountVolume.NodeExpandVolume succeeded for volume {volume:?} {node}");
        ("FileSystemResizeSuccessful", message)
    } else {
        // `GenerateExpandVolumeFunc` in the same file
        (
            "VolumeResizeSuccessful",
            format!("ExpandVolume succeeded for volume {name}"),
        )
    };
    pass.event(about, false, reason, message, EXPAND_CONTROLLER);
}

fn finish(status: &mut PersistentVolumeClaimStatus) {
    status.allocated_resource_statuses = None;
    remove_conditions(status);
}

fn is_resizing(status: &PersistentVolumeClaimStatus) -> bool {
    has_condition(status, RESIZING) || has_condition(status, FILE_SYSTEM_PENDING)
}

fn has_condition(status: &PersistentVolumeClaimStatus, type_: &str) -> bool {
    status.conditions.iter().flatten().any(|own| own.type_ == type_)
}

/// `MergeResizeConditionOnPVC`: at most one condition about resizing; one that stays keeps its time.
fn set_condition(status: &mut PersistentVolumeClaimStatus, type_: &str, message: Option<&str>, now: &Time) {
    let conditions = status.conditions.get_or_insert_default();
    let kept = conditions.iter().find(|own| own.type_ == type_ && own.status == "True");
    let condition = kept.cloned().unwrap_or_else(|| PersistentVolumeClaimCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(now.clone()),
        message: message.map(str::to_owned),
        ..PersistentVolumeClaimCondition::default()
    });
    conditions.retain(|own| own.type_ != RESIZING && own.type_ != FILE_SYSTEM_PENDING);
    conditions.push(condition);
}

fn remove_conditions(status: &mut PersistentVolumeClaimStatus) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|own| own.type_ != RESIZING && own.type_ != FILE_SYSTEM_PENDING);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}
