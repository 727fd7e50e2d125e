//! What happens to new objects before they are stored (`plugin/pkg/admission/storage`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::class;
use crate::fields::add_finalizer;
use crate::keys::{CLAIM_PROTECTION, VOLUME_PROTECTION};
use crate::volume::policy;

/// Completes a new claim: with the default class if it chooses none (`storageclass/setdefault`), and with the finalizer
/// that keeps it while Pods use it (`storageobjectinuseprotection`).
pub fn admit_claim(claim: &mut PersistentVolumeClaim, classes: &[StorageClass]) {
    class::assign_default(claim, classes);
    add_finalizer(&mut claim.metadata, CLAIM_PROTECTION);
}

/// Completes a new volume with the finalizer that keeps it while it is bound (`storageobjectinuseprotection`).
///
/// # Errors
/// If the volume should be recycled. Kubernetes has deprecated this, and recycles only NFS and hostPath volumes.
pub fn admit_volume(volume: &mut PersistentVolume) -> Result<(), &'static str> {
    if policy(volume) == "Recycle" {
        return Err(
            "spec.persistentVolumeReclaimPolicy: \"Recycle\" is not supported by microkube: write Delete or Retain",
        );
    }
    add_finalizer(&mut volume.metadata, VOLUME_PROTECTION);
    Ok(())
}
