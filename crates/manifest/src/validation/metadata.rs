//! Kubernetes' rules for the metadata of an object (`apimachinery/pkg/api/validation/objectmeta.go`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::error::FieldPath;
use super::super::names;
use super::found::Found;

/// `TotalAnnotationSizeLimitB`
const MAX_ANNOTATION_BYTES: usize = 256 << 10;

/// Checks the metadata of a Pod or a Secret: both have DNS subdomains for names.
pub(crate) fn validate(metadata: &ObjectMeta, found: &mut Found) {
    let path = FieldPath::default().field("metadata");
    let generate_name = metadata.generate_name.as_deref().unwrap_or_default();
    if !generate_name.is_empty() {
        // `NameIsDNSSubdomain` with prefix: a dash at the end is fine, the random part follows.
        let masked = generate_name
            .strip_suffix('-')
            .map_or_else(|| generate_name.to_owned(), |name| format!("{name}a"));
        found.invalid_for_each(
            &path.field("generateName"),
            generate_name,
            names::dns_subdomain(&masked),
        );
    }
    match metadata.name.as_deref().unwrap_or_default() {
        "" => found.required(&path.field("name"), "name or generateName is required"),
        _ if !generate_name.is_empty() => {}
        name => found.invalid_for_each(&path.field("name"), name, names::dns_subdomain(name)),
    }
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    found.invalid_for_each(&path.field("namespace"), namespace, names::dns_label(namespace));
    if let Some(generation) = metadata.generation {
        found.not_negative(&path.field("generation"), generation);
    }
    labels(metadata.labels.as_ref(), &path.field("labels"), found);
    annotations(metadata.annotations.as_ref(), &path.field("annotations"), found);
    for (index, owner) in metadata.owner_references.iter().flatten().enumerate() {
        let path = path.field("ownerReferences").index(index);
        for (field, value, detail) in [
            ("apiVersion", &owner.api_version, "version must not be empty"),
            ("kind", &owner.kind, "kind must not be empty"),
            ("name", &owner.name, "name must not be empty"),
            ("uid", &owner.uid, "uid must not be empty"),
        ] {
            if value.is_empty() {
                found.invalid(&path.field(field), "", detail);
            }
        }
    }
}

/// `ValidateLabels`
pub(super) fn labels(labels: Option<&BTreeMap<String, String>>, path: &FieldPath, found: &mut Found) {
    for (key, value) in labels.into_iter().flatten() {
        let place = path.key(key);
        found.invalid_inside(path, &place, key, names::qualified_name(key));
        found.invalid_inside(path, &place, value, names::label_value(value));
    }
}

fn annotations(annotations: Option<&BTreeMap<String, String>>, path: &FieldPath, found: &mut Found) {
    let mut bytes = 0_usize;
    for (key, value) in annotations.into_iter().flatten() {
        found.invalid_inside(path, &path.key(key), key, names::qualified_name(&key.to_lowercase()));
        bytes = bytes.saturating_add(key.len()).saturating_add(value.len());
    }
    if bytes > MAX_ANNOTATION_BYTES {
        found.too_long(path, MAX_ANNOTATION_BYTES);
    }
}
