//! New volumes for claims (`provisionClaim` in `pkg/controller/volume/persistentvolume/pv_controller.go`).
//!
//! The PersistentVolume is created before its disk, with the phase `Pending`, and bound when the disk exists. A disk
//! therefore always belongs to an object, wherever a process dies.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, PersistentVolumeStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::binding::reference;
use crate::change::{About, Change};
use crate::class;
use crate::fields::{Amounts, annotate, is_block, requests, storage, text};
use crate::keys::{self, PROVISIONER, STORAGE, phase};
use crate::pass::{Pass, VOLUME_CONTROLLER};
use crate::size::{OUT_OF_RANGE, capacity_of, disk_bytes};

/// The file system of new disks.
const FILE_SYSTEM: &str = "ext4";

/// The name of the volume for a claim (`getProvisionedVolumeNameForClaim`).
fn name_for(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", text(&claim.metadata.uid))
}

/// Begins to provision a volume for a claim that names a class, or says why that is impossible.
pub(crate) fn provision(pass: &mut Pass<'_>, mut claim: PersistentVolumeClaim) {
    let name = class::of_claim(&claim).to_owned();
    let fail = |pass: &mut Pass<'_>, claim: &PersistentVolumeClaim, message: String| {
        pass.wait(
            About::claim(claim),
            true,
            "ProvisioningFailed",
            message,
            VOLUME_CONTROLLER,
        );
    };
    let Some(class) = pass.state.class(&name) else {
        let message = format!("storageclass.storage.k8s.io {name:?} not found");
        return fail(pass, &claim, message);
    };
    let provisioner = class.provisioner.as_str();
    if provisioner.starts_with(keys::BUILT_IN) {
        // `FindProvisionablePluginByName` in `pkg/volume/plugins.go`
        let message = format!("no volume plugin matched name: {provisioner}");
        return fail(pass, &claim, message);
    }
    // `setClaimProvisioner`
    annotate(&mut claim.metadata, keys::BETA_STORAGE_PROVISIONER, provisioner);
    annotate(&mut claim.metadata, keys::STORAGE_PROVISIONER, provisioner);
    pass.put_claim(claim.clone());
    if provisioner != PROVISIONER {
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running and \
             correctly registered."
        );
        let about = About::claim(&claim);
        return pass.wait(about, false, "ExternalProvisioning", message, VOLUME_CONTROLLER);
    }
    if pass.volumes.contains_key(&name_for(&claim)) {
        return;
    }
    match volume_for(&claim, class) {
        Ok(volume) => pass.create(Change::CreateVolume(Box::new(volume))),
        Err(message) => fail(pass, &claim, message),
    }
}

/// Why a class cannot provision a volume for a claim. Except for the first two, the messages of drivers follow
/// `Failed to provision volume with StorageClass`.
fn obstacle(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let options = class.mount_options.as_deref().unwrap_or_default();
    let name = text(&class.metadata.name);
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Some(format!(
            "plugin {PROVISIONER:?} is not a CSI plugin. Only CSI plugin can provision a claim with a datasource"
        ));
    }
    if !options.is_empty() {
        return Some(format!(
            "Mount options are not supported by the provisioner but StorageClass {name:?} has mount options [{}]",
            options.join(" ")
        ));
    }
    let unknown = class.parameters.iter().flatten().next();
    let problem = if let Some((parameter, _)) = unknown {
        // In the words of the drivers in `pkg/volume`.
        format!("invalid option {parameter:?} for volume plugin {PROVISIONER}")
    } else if spec.selector.is_some() {
        // `provisionClaimOperation` in `sig-storage-lib-external-provisioner`
        "claim Selector is not supported".to_owned()
    } else if is_block(spec.volume_mode.as_ref()) {
        format!("{PROVISIONER} does not support block volume provisioning")
    } else if disk_bytes(storage(requests(claim))).is_none() {
        OUT_OF_RANGE.to_owned()
    } else {
        return None;
    };
    Some(failure(name, &problem))
}

/// The message about a volume that could not be created.
pub(crate) fn failure(class: &str, problem: &str) -> String {
    format!("Failed to provision volume with StorageClass {class:?}: {problem}")
}

/// The volume for a claim, without its disk.
fn volume_for(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<PersistentVolume, String> {
    if let Some(obstacle) = obstacle(claim, class) {
        return Err(obstacle);
    }
    let name = name_for(claim);
    let bytes = disk_bytes(storage(requests(claim))).unwrap_or_default();
    let mut metadata = ObjectMeta {
        name: Some(name.clone()),
        finalizers: Some(vec![keys::VOLUME_PROTECTION.to_owned()]),
        ..ObjectMeta::default()
    };
    annotate(&mut metadata, keys::BOUND_BY_CONTROLLER, keys::YES);
    annotate(&mut metadata, keys::PROVISIONED_BY, PROVISIONER);
    let policy = class.reclaim_policy.as_deref().unwrap_or("Delete");
    if policy == "Delete" {
        metadata
            .finalizers
            .get_or_insert_default()
            .push(keys::DISK_PROTECTION.to_owned());
    }
    let source = CSIPersistentVolumeSource {
        driver: keys::DRIVER.to_owned(),
        volume_handle: name,
        fs_type: Some(FILE_SYSTEM.to_owned()),
        ..CSIPersistentVolumeSource::default()
    };
    let spec = PersistentVolumeSpec {
        access_modes: claim.spec.as_ref().and_then(|spec| spec.access_modes.clone()),
        capacity: Some(Amounts::from([(
            STORAGE.to_owned(),
            capacity_of(requests(claim), bytes),
        )])),
        claim_ref: Some(reference(claim)),
        csi: Some(source),
        persistent_volume_reclaim_policy: Some(policy.to_owned()),
        storage_class_name: Some(class::of_claim(claim).to_owned()),
        volume_mode: Some("Filesystem".to_owned()),
        ..PersistentVolumeSpec::default()
    };
    Ok(PersistentVolume {
        metadata,
        spec: Some(spec),
        status: Some(PersistentVolumeStatus {
            phase: Some(phase::PENDING.to_owned()),
            ..PersistentVolumeStatus::default()
        }),
    })
}
