//! Kubernetes' rules for ephemeral volumes, whose claims are created with their Pod.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{EphemeralVolumeSource, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;
use super::{metadata, persistent_volume_claim};

/// `validateEphemeralVolumeSource`
pub(super) fn validate(source: &EphemeralVolumeSource, path: &FieldPath, found: &mut Found) {
    let path = path.field("volumeClaimTemplate");
    let Some(template) = &source.volume_claim_template else {
        return found.required(&path, "");
    };
    if let Some(metadata) = &template.metadata {
        template_metadata(metadata, &path.field("metadata"), found);
    }
    persistent_volume_claim::spec(&template.spec, &path.field("spec"), found);
}

/// `ValidateTemplateObjectMeta`: only labels and annotations are used, so nothing else may be set.
fn template_metadata(metadata: &ObjectMeta, path: &FieldPath, found: &mut Found) {
    metadata::annotations(metadata.annotations.as_ref(), &path.field("annotations"), found);
    metadata::labels(metadata.labels.as_ref(), &path.field("labels"), found);
    let written = serde_json::to_value(metadata).unwrap_or_default();
    let fields = written.as_object().into_iter().flatten().map(|(field, _)| field);
    for field in fields.filter(|field| !matches!(field.as_str(), "annotations" | "labels")) {
        // Kubernetes derives the name from that in Go.
        let shown = if field == "uid" { "uID" } else { field };
        found.forbidden_at(&path.field(shown), &path.field(field), "cannot be set");
    }
}

/// The names of the claims that are created for a Pod.
pub(super) fn claim_names(volumes: &[Volume], pod_name: &str) -> HashSet<String> {
    let own = volumes
        .iter()
        .filter(|volume| volume.ephemeral.is_some() && !pod_name.is_empty());
    own.map(|volume| format!("{pod_name}-{}", volume.name)).collect()
}

/// Checks the name of the claim that is created for a volume. Missing names are reported elsewhere, and here, unlike in
/// Kubernetes, also invalid ones, which may be of any length.
pub(super) fn claim_name(volume: &str, pod_name: &str, path: &FieldPath, found: &mut Found) {
    if !names::dns_label(volume).is_empty() || !names::dns_subdomain(pod_name).is_empty() {
        return;
    }
    let claim = format!("{pod_name}-{volume}");
    for problem in names::dns_subdomain(&claim) {
        found.invalid(path, volume, format_args!("PVC name {claim:?}: {problem}"));
    }
}
