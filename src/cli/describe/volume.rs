//! The Pod's volumes on the page.

use k8s_openapi::api::core::v1::Volume;
use serde_json::Value;

use super::page::Page;

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
    } else if let Some(source) = &volume.downward_api {
        let what = "DownwardAPI (a volume populated by information about the pod)";
        page.field(2, "Type", what);
        page.title(2, "Items");
        for item in source.items.iter().flatten() {
            if let Some(field) = &item.field_ref {
                page.word(3, &format!("{} -> {}", field.field_path, item.path));
            }
            if let Some(field) = &item.resource_field_ref {
                page.word(3, &format!("{} -> {}", field.resource, item.path));
            }
        }
    } else if let Some(source) = &volume.projected {
        let what = "Projected (a volume that contains injected data from multiple sources)";
        page.field(2, "Type", what);
        for source in source.sources.iter().flatten() {
            if let Some(secret) = &source.secret {
                page.field(2, "SecretName", &secret.name);
                page.field(2, "Optional", &optional(secret.optional));
            } else if source.downward_api.is_some() {
                page.field(2, "DownwardAPI", "true");
            } else if let Some(config_map) = &source.config_map {
                page.field(2, "ConfigMapName", &config_map.name);
                page.field(2, "Optional", &optional(config_map.optional));
            } else if let Some(token) = &source.service_account_token {
                let seconds = token.expiration_seconds.unwrap_or(3600);
                page.field(2, "TokenExpirationSeconds", &seconds.to_string());
            }
        }
    } else if let Some(source) = &volume.persistent_volume_claim {
        page.field(
            2,
            "Type",
            "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        );
        page.field(2, "ClaimName", &source.claim_name);
        page.field(2, "ReadOnly", &optional(source.read_only));
    } else if let Some(source) = &volume.image {
        page.field(2, "Type", "Image (a container image or OCI artifact)");
        page.field(2, "Reference", &text(&source.reference));
        page.field(2, "PullPolicy", &text(&source.pull_policy));
    } else {
        page.field(2, "Type", &other(volume));
    }
}

/// The name of a kind without its own description.
fn other(volume: &Volume) -> String {
    match serde_json::to_value(volume) {
        Ok(Value::Object(fields)) => fields.keys().find(|key| *key != "name").cloned().unwrap_or_default(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;
    use serde_json::json;

    use super::*;

    #[test]
    fn volumes_of_objects_show_what_they_contain() {
        let volumes: Vec<Volume> = serde_json::from_value(json!([
            { "name": "info", "downwardAPI": { "items": [
                { "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } },
                { "path": "cpu", "resourceFieldRef": { "resource": "limits.cpu" } },
            ] } },
            { "name": "all", "projected": { "sources": [
                { "serviceAccountToken": { "path": "token", "expirationSeconds": 3607 } },
                { "configMap": { "name": "settings" } },
                { "secret": { "name": "login", "optional": true } },
                { "downwardAPI": {} },
            ] } },
            { "name": "model", "image": { "reference": "model:v1", "pullPolicy": "IfNotPresent" } },
        ]))
        .unwrap();
        let mut page = Page::new(TimeZone::UTC);
        describe(&mut page, &volumes);
        assert_eq!(
            page.finish(),
            "\
Volumes:
  info:
    Type:  DownwardAPI (a volume populated by information about the pod)
    Items:
      metadata.labels -> labels
      limits.cpu -> cpu
  all:
    Type:                    Projected (a volume that contains injected data from multiple sources)
    TokenExpirationSeconds:  3607
    ConfigMapName:           settings
    Optional:                false
    SecretName:              login
    Optional:                true
    DownwardAPI:             true
  model:
    Type:        Image (a container image or OCI artifact)
    Reference:   model:v1
    PullPolicy:  IfNotPresent
"
        );
    }
}
