//! Kubernetes' rules for the metadata of an object (`apimachinery/pkg/api/validation/objectmeta.go`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta, OwnerReference};

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;

/// `TotalAnnotationSizeLimitB`
const MAX_ANNOTATION_BYTES: usize = 256 << 10;
/// `FinalizerOrphanDependents`
const ORPHAN: &str = "orphan";
/// `FinalizerDeleteDependents`
const FOREGROUND_DELETION: &str = "foregroundDeletion";
/// `IsStandardFinalizerName`
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", ORPHAN, FOREGROUND_DELETION];

/// A rule for names, which returns what is wrong with a name.
pub(crate) type NameRule = fn(&str) -> Vec<String>;

/// Checks the metadata of an object in a namespace whose name is a DNS subdomain, as those of most kinds.
pub(crate) fn validate(metadata: &ObjectMeta, found: &mut Found) {
    common(metadata, names::dns_subdomain, found);
    let path = FieldPath::default().field("metadata").field("namespace");
    match metadata.namespace.as_deref().unwrap_or_default() {
        "" => found.required(&path, ""),
        namespace => found.invalid_for_each(&path, namespace, names::dns_label(namespace)),
    }
}

/// Checks the metadata of an object that is in no namespace.
pub(crate) fn validate_cluster_wide(metadata: &ObjectMeta, rule: NameRule, found: &mut Found) {
    common(metadata, rule, found);
    if !metadata.namespace.as_deref().unwrap_or_default().is_empty() {
        let path = FieldPath::default().field("metadata").field("namespace");
        found.forbidden(&path, "not allowed on this type");
    }
}

fn common(metadata: &ObjectMeta, rule: NameRule, found: &mut Found) {
    let path = FieldPath::default().field("metadata");
    let generate_name = metadata.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        let masked = mask_trailing_dash(generate_name);
        found.invalid_for_each(&path.field("generateName"), generate_name, rule(&masked));
    }
    match metadata.name.as_deref().unwrap_or_default() {
        "" => found.required(&path.field("name"), "name or generateName is required"),
        _ if !generate_name.is_empty() => {}
        name => found.invalid_for_each(&path.field("name"), name, rule(name)),
    }
    if let Some(generation) = metadata.generation {
        found.not_negative(&path.field("generation"), generation);
    }
    labels(metadata.labels.as_ref(), &path.field("labels"), found);
    annotations(metadata.annotations.as_ref(), &path.field("annotations"), found);
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    owner_references(owners, &path.field("ownerReferences"), found);
    let finalizers = metadata.finalizers.as_deref().unwrap_or_default();
    self::finalizers(finalizers, &path.field("finalizers"), found);
    let managed = metadata.managed_fields.as_deref().unwrap_or_default();
    managed_fields(managed, &path.field("managedFields"), found);
}

/// `NameIsDNSSubdomain` with prefix: a trailing dash is allowed because more follows.
pub(super) fn dns_subdomain_prefix(name: &str) -> Vec<String> {
    names::dns_subdomain(&mask_trailing_dash(name))
}

fn mask_trailing_dash(name: &str) -> String {
    name.strip_suffix('-')
        .map_or_else(|| name.to_owned(), |name| format!("{name}a"))
}

/// `ValidateLabels`
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, path: &FieldPath, found: &mut Found) {
    for (key, value) in labels.into_iter().flatten() {
        let place = path.key(key);
        found.invalid_inside(path, &place, key, names::qualified_name(key));
        found.invalid_inside(path, &place, value, names::label_value(value));
    }
}

/// `ValidateAnnotations`
pub(super) fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &FieldPath, found: &mut Found) {
    let mut bytes = 0_usize;
    for (key, value) in annotations.into_iter().flatten() {
        found.invalid_inside(path, &path.key(key), key, names::qualified_name(&key.to_lowercase()));
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if bytes > MAX_ANNOTATION_BYTES {
        found.too_long(path, MAX_ANNOTATION_BYTES);
    }
}

fn owner_references(owners: &[OwnerReference], path: &FieldPath, found: &mut Found) {
    let mut controller: Option<String> = None;
    for (index, owner) in owners.iter().enumerate() {
        let place = path.index(index);
        for (field, value, detail) in [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "kind must not be empty"),
            ("name", &owner.name, "name must not be empty"),
            ("uid", &owner.uid, "uid must not be empty"),
        ] {
            if value.is_empty() {
                found.invalid(&place.field(field), "", detail);
            }
        }
        if owner.controller != Some(true) {
            continue;
        }
        let own = format!("{}/{}", owner.kind, owner.name);
        match &controller {
            Some(first) => {
                let shown = serde_json::to_string(owners).unwrap_or_default();
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {own}"
                );
                found.invalid(path, format_args!("{shown}"), detail);
            }
            None => controller = Some(own),
        }
    }
}

fn finalizers(finalizers: &[String], path: &FieldPath, found: &mut Found) {
    for (index, finalizer) in finalizers.iter().enumerate() {
        let place = path.index(index);
        found.invalid_inside(path, &place, finalizer, names::qualified_name(finalizer));
        standard_finalizer(finalizer, &place, found);
    }
    let has = |name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    if has(ORPHAN) && has(FOREGROUND_DELETION) {
        let shown = serde_json::to_string(finalizers).unwrap_or_default();
        let detail = format_args!("finalizer {ORPHAN} and {FOREGROUND_DELETION} cannot be both set").to_string();
        found.invalid(path, format_args!("{shown}"), detail);
    }
}

/// `validateKubeFinalizerName`
pub(super) fn standard_finalizer(finalizer: &str, path: &FieldPath, found: &mut Found) {
    if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer) {
        let detail = "name is neither a standard finalizer name nor is it fully qualified";
        found.invalid(path, finalizer, detail);
    }
}

/// `ValidateManagedFields`
fn managed_fields(entries: &[ManagedFieldsEntry], path: &FieldPath, found: &mut Found) {
    for (index, entry) in entries.iter().enumerate() {
        let path = path.index(index);
        let operation = entry.operation.as_deref().unwrap_or_default();
        if !matches!(operation, "Apply" | "Update") {
            found.invalid(&path.field("operation"), operation, "must be `Apply` or `Update`");
        }
        let fields_type = entry.fields_type.as_deref().unwrap_or_default();
        if !matches!(fields_type, "" | "FieldsV1") {
            found.invalid(&path.field("fieldsType"), fields_type, "must be `FieldsV1`");
        }
    }
}
