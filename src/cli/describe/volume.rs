//! The Pod's volumes on the page.

use k8s_openapi::api::core::v1::Volume;
use serde_json::Value;

use super::page::Page;

/// All of them.
pub(super) fn describe(page: &mut Page, volumes: &[Volume]) {
    if volumes.is_empty() {
        page.field(0, "Volumes", "<none>");
        return;
    }
    page.title(0, "Volumes");
    for volume in volumes {
        page.title(1, &volume.name);
        one(page, volume);
    }
}

fn one(page: &mut Page, volume: &Volume) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let optional = |value: Option<bool>| value.unwrap_or(false).to_string();
    if let Some(source) = &volume.empty_dir {
        page.field(
            2,
            "Type",
            "EmptyDir (a temporary directory that shares a pod's lifetime)",
        );
        page.field(2, "Medium", &text(&source.medium));
        let limit = source.size_limit.as_ref().map(|limit| limit.0.as_str());
        page.field(2, "SizeLimit", limit.unwrap_or("<unset>"));
    } else if let Some(source) = &volume.host_path {
        page.field(2, "Type", "HostPath (bare host directory volume)");
        page.field(2, "Path", &source.path);
        page.field(2, "HostPathType", &text(&source.type_));
    } else if let Some(source) = &volume.config_map {
        page.field(2, "Type", "ConfigMap (a volume populated by a ConfigMap)");
        page.field(2, "Name", &source.name);
        page.field(2, "Optional", &optional(source.optional));
    } else if let Some(source) = &volume.secret {
        page.field(2, "Type", "Secret (a volume populated by a Secret)");
        page.field(2, "SecretName", &text(&source.secret_name));
        page.field(2, "Optional", &optional(source.optional));
    } else if let Some(source) = &volume.persistent_volume_claim {
        page.field(
            2,
            "Type",
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        );
        page.field(2, "ClaimName", &source.claim_name);
        page.field(2, "ReadOnly", &optional(source.read_only));
    } else {
        page.field(2, "Type", &other(volume));
    }
}

/// The name of a kind that has no words of its own.
fn other(volume: &Volume) -> String {
    match serde_json::to_value(volume) {
        Ok(Value::Object(fields)) => fields.keys().find(|key| *key != "name").cloned().unwrap_or_default(),
        _ => String::new(),
    }
}
