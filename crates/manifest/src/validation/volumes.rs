//! Kubernetes' rules for the volumes that a Pod declares.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::Volume;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;
use super::{ephemeral_volume, persistent_volume, projection, resources};

/// Checks the volumes of a Pod with this name, which may be empty, and returns their names.
pub(super) fn validate<'s>(
    volumes: &'s [Volume],
    pod_name: &str,
    path: &FieldPath,
    found: &mut Found,
) -> HashSet<&'s str> {
    let created = ephemeral_volume::claim_names(volumes, pod_name);
    let mut names = HashSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = path.index(index);
        let name = path.field("name");
        if volume.name.is_empty() {
            found.required(&name, "");
        } else {
            found.invalid_for_each(&name, &volume.name, names::dns_label(&volume.name));
            if !names.insert(volume.name.as_str()) {
                found.duplicate(&name, volume.name.as_str());
            }
        }
        // Every field except the name is a kind of volume.
        let written = serde_json::to_value(volume).unwrap_or_default();
        let kinds = written
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key)
            .filter(|key| *key != "name");
        for kind in kinds.skip(1) {
            found.forbidden(&path.field(kind), "may not specify more than 1 volume type");
        }
        source(volume, &path, found);
        if volume.ephemeral.is_some() {
            ephemeral_volume::claim_name(&volume.name, pod_name, &name, found);
        }
        if let Some(claim) = &volume.persistent_volume_claim
            && created.contains(&claim.claim_name)
        {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            let path = path.field("persistentVolumeClaim").field("claimName");
            found.invalid(&path, claim.claim_name.as_str(), detail);
        }
    }
    names
}

fn source(volume: &Volume, path: &FieldPath, found: &mut Found) {
    if let Some(host_path) = &volume.host_path {
        persistent_volume::host_path(host_path, &path.field("hostPath"), found);
    }
    if let Some(ephemeral) = &volume.ephemeral {
        ephemeral_volume::validate(ephemeral, &path.field("ephemeral"), found);
    }
    if let Some(image) = &volume.image {
        let path = path.field("image");
        if image.reference.as_deref().unwrap_or_default().is_empty() {
            found.required(&path.field("reference"), "");
        }
        let policy = image.pull_policy.as_deref().unwrap_or_default();
        let policies = ["Always", "IfNotPresent", "Never"];
        found.one_of(&path.field("pullPolicy"), policy, &policies);
    }
    if let Some(empty_dir) = &volume.empty_dir {
        let path = path.field("emptyDir");
        let medium = empty_dir.medium.as_deref().unwrap_or_default();
        if !medium.starts_with("HugePages") {
            found.one_of(&path.field("medium"), medium, &["", "Memory"]);
        }
        if let Some(limit) = &empty_dir.size_limit {
            resources::quantity(&limit.0, &path.field("sizeLimit"), found);
        }
    }
    if let Some(config_map) = &volume.config_map {
        let path = path.field("configMap");
        projection::object(&config_map.name, &path.field("name"), found);
        projection::mode(config_map.default_mode, &path.field("defaultMode"), found);
        projection::items(config_map.items.as_deref(), &path.field("items"), found);
    }
    if let Some(secret) = &volume.secret {
        let path = path.field("secret");
        let name = secret.secret_name.as_deref().unwrap_or_default();
        projection::object(name, &path.field("secretName"), found);
        projection::mode(secret.default_mode, &path.field("defaultMode"), found);
        projection::items(secret.items.as_deref(), &path.field("items"), found);
    }
    if let Some(downward) = &volume.downward_api {
        let path = path.field("downwardAPI");
        projection::mode(downward.default_mode, &path.field("defaultMode"), found);
        projection::files(downward.items.as_deref(), &path, found);
    }
    if let Some(projected) = &volume.projected {
        let path = path.field("projected");
        projection::mode(projected.default_mode, &path.field("defaultMode"), found);
        projection::sources(projected.sources.as_deref().unwrap_or_default(), &path, found);
    }
    if let Some(claim) = &volume.persistent_volume_claim
        && claim.claim_name.is_empty()
    {
        found.required(&path.field("persistentVolumeClaim").field("claimName"), "");
    }
}
