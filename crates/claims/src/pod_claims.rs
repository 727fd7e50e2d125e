//! The claims that a Pod refers to, and the claims of its ephemeral volumes.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::fields::{Key, qualified, text};

/// A volume of a Pod that is a claim.
#[derive(Debug, Clone)]
pub(crate) struct PodClaim<'p> {
    pub volume: &'p Volume,
    pub key: Key,
    /// Whether the claim is created for the Pod.
    pub is_ephemeral: bool,
    /// Whether the Pod wants to read only.
    pub read_only: bool,
}

/// The Pod's volumes that are claims, in order.
pub(crate) fn pod_claims(pod: &Pod) -> Vec<PodClaim<'_>> {
    let namespace = text(&pod.metadata.namespace);
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| {
        let (name, read_only) = match &volume.persistent_volume_claim {
            Some(source) => (source.claim_name.clone(), source.read_only == Some(true)),
            None => (volume.ephemeral.as_ref().map(|_| claim_name(pod, volume))?, false),
        };
        Some(PodClaim {
            volume,
            key: (namespace.to_owned(), name),
            is_ephemeral: volume.persistent_volume_claim.is_none(),
            read_only,
        })
    });
    claims.collect()
}

/// The name of the claim of an ephemeral volume (`VolumeClaimName` in `component-helpers/storage/ephemeral/ephemeral.go`).
#[must_use]
pub fn claim_name(pod: &Pod, volume: &Volume) -> String {
    format!("{}-{}", text(&pod.metadata.name), volume.name)
}

/// Checks that a claim was created for the Pod (`VolumeIsForPod` in `component-helpers/storage/ephemeral/ephemeral.go`).
///
/// # Errors
/// The message of Kubernetes, if the Pod is not the claim's controller.
pub fn check_owner(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let is_same_namespace = claim.metadata.namespace == pod.metadata.namespace;
    if is_same_namespace && is_controlled_by(&claim.metadata, pod) {
        return Ok(());
    }
    Err(format!(
        "PVC {} was not created for pod {} (pod is not owner)",
        qualified(&claim.metadata),
        qualified(&pod.metadata)
    ))
}

/// `IsControlledBy`
fn is_controlled_by(metadata: &ObjectMeta, pod: &Pod) -> bool {
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| owner.uid == text(&pod.metadata.uid))
}

/// The claim of an ephemeral volume (`handleVolume` in `pkg/controller/volume/ephemeral/controller.go`). `None` if the
/// volume is not ephemeral.
#[must_use]
pub fn claim_for(pod: &Pod, volume: &Volume) -> Option<PersistentVolumeClaim> {
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let written = template.metadata.clone().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: text(&pod.metadata.name).to_owned(),
        uid: text(&pod.metadata.uid).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    };
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(claim_name(pod, volume)),
            namespace: pod.metadata.namespace.clone(),
            labels: written.labels,
            annotations: written.annotations,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}
