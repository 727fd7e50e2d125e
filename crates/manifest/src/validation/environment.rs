//! Kubernetes' rules for a container's environment: `env` and `envFrom`.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, FileKeySelector};

use super::super::error::FieldPath;
use super::super::{downward, names};
use super::downward_api::{self, Place};
use super::found::Found;
use super::metadata;

/// Checks `env`.
pub(super) fn variables(variables: &[EnvVar], path: &FieldPath, found: &mut Found) {
    for (index, variable) in variables.iter().enumerate() {
        let path = path.index(index);
        if variable.name.is_empty() {
            found.required(&path.field("name"), "");
        } else {
            found.invalid_for_each(
                &path.field("name"),
                &variable.name,
                names::variable_name(&variable.name),
            );
        }
        let value = variable.value.as_deref().unwrap_or_default();
        found.no_nul(&path.field("value"), value);
        if let Some(source) = &variable.value_from {
            let path = path.field("valueFrom");
            if !value.is_empty() {
                found.invalid(&path, "", "may not be specified when `value` is not empty");
            }
            value_source(source, &path, found);
        }
    }
}

fn value_source(source: &EnvVarSource, path: &FieldPath, found: &mut Found) {
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        downward_api::pod_field(field, downward::FIELDS, &path.field("fieldRef"), found);
    }
    if let Some(field) = &source.resource_field_ref {
        sources += 1;
        downward_api::resource_field(field, Place::Environment, &path.field("resourceFieldRef"), found);
    }
    let config_map = source
        .config_map_key_ref
        .as_ref()
        .map(|own| ("configMapKeyRef", &own.name, &own.key));
    let secret = source
        .secret_key_ref
        .as_ref()
        .map(|own| ("secretKeyRef", &own.name, &own.key));
    for (field, name, key) in config_map.into_iter().chain(secret) {
        sources += 1;
        let path = path.field(field);
        found.invalid_for_each(&path.field("name"), name, names::dns_subdomain(name));
        if key.is_empty() {
            found.required(&path.field("key"), "");
        } else {
            found.invalid_for_each(&path.field("key"), key, names::config_map_key(key));
        }
    }
    if let Some(file) = &source.file_key_ref {
        sources += 1;
        file_key(file, &path.field("fileKeyRef"), found);
    }
    match sources {
        0 => found.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        1 => {}
        _ => found.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

fn file_key(file: &FileKeySelector, path: &FieldPath, found: &mut Found) {
    for (field, value) in [
        ("key", &file.key),
        ("volumeName", &file.volume_name),
        ("path", &file.path),
    ] {
        if value.is_empty() {
            found.required(&path.field(field), "");
        }
    }
    found.invalid_for_each(&path.field("key"), &file.key, names::variable_name(&file.key));
    found.local_path(&path.field("path"), &file.path);
}

/// Checks `envFrom`. Kubernetes names the list, not the element, if an element has no source or several.
pub(super) fn sources(sources: &[EnvFromSource], path: &FieldPath, found: &mut Found) {
    for (index, source) in sources.iter().enumerate() {
        let place = path.index(index);
        let prefix = source.prefix.as_deref().unwrap_or_default();
        found.invalid_for_each(&place.field("prefix"), prefix, names::variable_name(prefix));
        let config_map = source.config_map_ref.as_ref().map(|own| ("configMapRef", &own.name));
        let secret = source.secret_ref.as_ref().map(|own| ("secretRef", &own.name));
        let objects: Vec<_> = config_map.into_iter().chain(secret).collect();
        for (field, name) in &objects {
            let path = place.field(field).field("name");
            if name.is_empty() {
                found.required(&path, "");
            } else {
                found.invalid_for_each(&path, name, metadata::dns_subdomain_prefix(name));
            }
        }
        let detail = match objects.len() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        found.invalid_inside(path, &place, "", vec![detail.to_owned()]);
    }
}
