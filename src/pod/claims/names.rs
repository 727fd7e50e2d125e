//! The claims that a Pod refers to.

use k8s_openapi::api::core::v1::Pod;

/// Whether the Pod has volumes that are claims.
#[must_use]
pub fn has_claims(pod: &Pod) -> bool {
    claim_names(pod).next().is_some()
}

/// The names of the claims that the Pod refers to.
pub fn claim_names(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| match &volume.persistent_volume_claim {
        Some(source) => Some(source.claim_name.clone()),
        None => volume
            .ephemeral
            .as_ref()
            .map(|_| microkube_claims::claim_name(pod, volume)),
    })
}
