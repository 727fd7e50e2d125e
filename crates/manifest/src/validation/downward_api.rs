//! Kubernetes' rules for references to fields of the Pod (`fieldRef`) and to resources of its containers
//! (`resourceFieldRef`), in variables and in files.

use k8s_openapi::api::core::v1::{ObjectFieldSelector, ResourceFieldSelector};

use super::super::error::FieldPath;
use super::super::names;
use super::super::quantity::Quantity;
use super::found::Found;

/// `validVolumeDownwardAPIFieldPathExpressions`: the fields that a file can contain, besides single labels and
/// annotations.
pub(super) const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// `ConvertDownwardAPIFieldLabel`: fields that exist, though not everywhere.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.phase",
    "status.podIP",
    "status.podIPs",
];

/// `validContainerResourceFieldPathExpressions`
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Where a resource is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a variable, which belongs to a container.
    Environment,
    /// In a file, which must name a container.
    File,
}

/// `validateObjectFieldSelector`
pub(super) fn pod_field(field: &ObjectFieldSelector, allowed: &[&str], path: &FieldPath, found: &mut Found) {
    let field_path = path.field("fieldPath");
    let version = field.api_version.as_deref().unwrap_or_default();
    let value = field.field_path.as_str();
    if version.is_empty() {
        return found.required(&path.field("apiVersion"), "");
    }
    if value.is_empty() {
        return found.required(&field_path, "");
    }
    let unknown = if version != "v1" {
        format!("unsupported pod version: {version}")
    } else {
        match subscript(value) {
            Some(("metadata.annotations", key)) => {
                return found.invalid_inside(path, &field_path, key, names::qualified_name(&key.to_lowercase()));
            }
            Some(("metadata.labels", key)) => {
                return found.invalid_inside(path, &field_path, key, names::qualified_name(key));
            }
            Some(_) => format!("field label does not support subscript: {value}"),
            None if KNOWN_FIELDS.contains(&value) => return found.one_of(&field_path, value, allowed),
            None => format!("field label not supported: {value}"),
        }
    };
    found.invalid(
        &field_path,
        value,
        format_args!("error converting fieldPath: {unknown}"),
    );
}

/// `metadata.labels['key']` as `("metadata.labels", "key")` (`SplitMaybeSubscriptedPath`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (list, key) = path.strip_suffix("']")?.split_once("['")?;
    (!list.is_empty()).then_some((list, key))
}

/// `validateContainerResourceFieldSelector`
pub(super) fn resource_field(field: &ResourceFieldSelector, place: Place, path: &FieldPath, found: &mut Found) {
    let container = field.container_name.as_deref().unwrap_or_default();
    let is_huge_pages = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|start| field.resource.starts_with(start));
    if place == Place::File && container.is_empty() {
        found.required(&path.field("containerName"), "");
    } else if field.resource.is_empty() {
        found.required(&path.field("resource"), "");
    } else if !is_huge_pages {
        found.one_of(&path.field("resource"), &field.resource, RESOURCES);
    }
    if let Some(divisor) = &field.divisor {
        self::divisor(&field.resource, &divisor.0, &path.field("divisor"), found);
    }
}

/// `validateContainerResourceDivisor`; zero is a divisor that is not set.
fn divisor(resource: &str, text: &str, path: &FieldPath, found: &mut Found) {
    const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let divisor: Quantity = match text.parse() {
        Ok(divisor) => divisor,
        Err(error) => return found.invalid(path, text, error),
    };
    let (allowed, name) = match resource.split_once('.') {
        Some(("limits" | "requests", "cpu")) => ("1m, 1", "cpu"),
        Some(("limits" | "requests", "memory")) => (BYTES, "memory"),
        Some(("limits" | "requests", "ephemeral-storage")) => (BYTES, "local ephemeral storage"),
        Some(("limits" | "requests", other)) if other.starts_with("hugepages-") => (BYTES, "hugepages"),
        _ => return,
    };
    // Kubernetes compares the canonical form: `1024Ki` is `1Mi`, and `1024` is not `1Ki`.
    let is_allowed = |allowed: &str| {
        allowed.parse() == Ok(divisor) && (allowed == "1" || allowed.ends_with('i') == text.ends_with('i'))
    };
    if divisor != Quantity::default() && !allowed.split(", ").any(is_allowed) {
        let values = allowed.replace("1m, 1", "1m and 1");
        let detail = format!("only divisor's values {values} are supported with the {name} resource");
        found.invalid(path, resource, detail);
    }
}
