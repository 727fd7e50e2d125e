//! Values of `fieldRef` (`podFieldSelectorRuntimeValue` in `pkg/kubelet/kubelet_pods.go`, `pkg/fieldpath/fieldpath.go`).

use std::collections::BTreeMap;

use microkube_manifest::{downward, names};

use crate::bound_pod::BoundPod;
use crate::error::ProjectionError;
use crate::quote::quote;

/// The value for a variable. Its paths are those of a volume and those that are known only on the node.
pub(crate) fn for_variable(path: &str, pod: &BoundPod<'_>) -> Result<String, ProjectionError> {
    match path {
        "spec.nodeName"
        | "spec.serviceAccountName"
        | "status.hostIP"
        | "status.hostIPs"
        | "status.podIP"
        | "status.podIPs" => simple(path, pod),
        _ => for_volume(path, pod),
    }
}

/// The value for a file of a downwardAPI volume: one of the Pod's `metadata`.
pub(crate) fn for_volume(path: &str, pod: &BoundPod<'_>) -> Result<String, ProjectionError> {
    let metadata = &pod.pod.metadata;
    if let Some((map, key)) = subscript(path) {
        // Keys of annotations may have upper case letters in their prefix.
        let (map, checked) = match map {
            "metadata.annotations" => (&metadata.annotations, key.to_lowercase()),
            "metadata.labels" => (&metadata.labels, key.to_owned()),
            _ => return Err(ProjectionError::Subscript(path.to_owned())),
        };
        let problems = names::qualified_name(&checked);
        if !problems.is_empty() {
            return Err(ProjectionError::SubscriptKey {
                path: path.to_owned(),
                why: problems.join(";"),
            });
        }
        return Ok(map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    match path {
        "metadata.annotations" => Ok(lines(metadata.annotations.as_ref())),
        "metadata.labels" => Ok(lines(metadata.labels.as_ref())),
        "metadata.name" | "metadata.namespace" | "metadata.uid" => simple(path, pod),
        _ => Err(ProjectionError::FieldPath(path.to_owned())),
    }
}

fn simple(path: &str, pod: &BoundPod<'_>) -> Result<String, ProjectionError> {
    downward::field(path, pod.pod, pod.status).ok_or_else(|| ProjectionError::FieldPath(path.to_owned()))
}

/// `metadata.labels['key']` as `("metadata.labels", "key")` (`SplitMaybeSubscriptedPath`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, key) = path.strip_suffix("']")?.split_once("['")?;
    (!map.is_empty()).then_some((map, key))
}

/// One line per entry, without a newline after the last (`FormatMap`).
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    let entries = map.into_iter().flatten();
    let lines: Vec<String> = entries.map(|(key, value)| format!("{key}={}", quote(value))).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod_from};

    #[test]
    fn every_path_has_its_value() {
        let node = node();
        let pod = pod_from(json!({
            "metadata": {
                "name": "web", "namespace": "ns",
                "labels": {"app": "web", "a.b/c": "x", "app-tier": "front"},
                "annotations": {"Example.com/Note": "two\nlines \"quoted\"", "empty": ""},
            },
            "spec": {"containers": [], "serviceAccountName": "robot"},
        }));
        let bound = node.bind(&pod);
        let labels = "a.b/c=\"x\"\napp=\"web\"\napp-tier=\"front\"";
        let annotations = "Example.com/Note=\"two\\nlines \\\"quoted\\\"\"\nempty=\"\"";
        for (path, expected) in [
            ("metadata.name", "web"),
            ("metadata.namespace", "ns"),
            ("metadata.uid", "u-1"),
            ("metadata.labels", labels),
            ("metadata.annotations", annotations),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['a.b/c']", "x"),
            ("metadata.labels['absent']", ""),
            ("metadata.annotations['Example.com/Note']", "two\nlines \"quoted\""),
            ("metadata.annotations['absent']", ""),
        ] {
            assert_eq!(for_volume(path, &bound).as_deref(), Ok(expected), "{path}");
            assert_eq!(for_variable(path, &bound).as_deref(), Ok(expected), "{path}");
        }
        for (path, expected) in [
            ("spec.nodeName", "node-1"),
            ("spec.serviceAccountName", "robot"),
            ("status.hostIP", "10.88.0.1"),
            ("status.hostIPs", "10.88.0.1"),
            ("status.podIP", "10.88.0.2"),
            ("status.podIPs", "10.88.0.2"),
        ] {
            assert_eq!(for_variable(path, &bound).as_deref(), Ok(expected), "{path}");
            let error = for_volume(path, &bound).unwrap_err().to_string();
            assert_eq!(error, format!("unsupported fieldPath: {path}"));
        }
    }

    #[test]
    fn other_paths_are_refused() {
        let node = node();
        let pod = pod_from(json!({"metadata": {"name": "web"}, "spec": {"containers": []}}));
        let bound = node.bind(&pod);
        for (path, expected) in [
            ("", "unsupported fieldPath: "),
            ("spec.containers", "unsupported fieldPath: spec.containers"),
            (
                "spec.nodeName['x']",
                "fieldPath \"spec.nodeName['x']\" does not support subscript",
            ),
            (
                "metadata.labels['']",
                "invalid key subscript in metadata.labels['']: name part must be non-empty",
            ),
            ("['x']", "unsupported fieldPath: ['x']"),
            ("metadata.labels['x", "unsupported fieldPath: metadata.labels['x"),
        ] {
            let error = for_variable(path, &bound).unwrap_err().to_string();
            assert_eq!(error, expected);
        }
        let error = for_variable("metadata.labels['a b']", &bound).unwrap_err().to_string();
        assert!(error.starts_with("invalid key subscript in metadata.labels['a b']: name part must consist of"));
        assert!(for_variable("metadata.labels['A.b/c']", &bound).is_err());
        assert!(for_variable("metadata.annotations['A.b/c']", &bound).is_ok());
    }

    #[test]
    fn a_pod_without_labels_has_an_empty_list_of_them() {
        let node = node();
        let pod = pod_from(json!({"spec": {"containers": []}}));
        assert_eq!(for_volume("metadata.labels", &node.bind(&pod)).as_deref(), Ok(""));
    }
}
