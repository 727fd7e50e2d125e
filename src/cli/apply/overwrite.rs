//! The message of `apply --overwrite=false` for a configuration that would overwrite what others have changed.

use anyhow::anyhow;
use microkube_manifest::kinds::Kind;
use microkube_patch::last_applied;
use serde_json::Value;

use super::super::yaml;
use crate::objects::Overwritten;

/// kubectl's message. It has no values of Secrets, unlike kubectl's.
pub(super) fn refused(kind: &Kind, conflict: &Overwritten, source: &str) -> anyhow::Error {
    let Overwritten {
        modified,
        current,
        patch,
        changes,
    } = conflict;
    let text = |field: &str| modified.pointer(field).and_then(Value::as_str).unwrap_or_default();
    let version = match kind.group {
        "" => format!("/{}", kind.version),
        group => format!("{group}/{}", kind.version),
    };
    // kubectl has no patch here yet.
    let place = format!(
        "error when applying patch:\n\nto:\nResource: \"{version}, Resource={}\", GroupVersionKind: \"{version}, \
         Kind={}\"\nName: {:?}, Namespace: {:?}\nfor: {source:?}: error when patching {source:?}: ",
        kind.plural,
        kind.kind,
        text("/metadata/name"),
        text("/metadata/namespace"),
    );
    if kind.kind == "Secret" {
        return anyhow!("{place}patch conflicts with changes made from original to current");
    }
    let patch = yaml::document(patch);
    let changes = yaml::document(changes);
    anyhow!(
        "{place}creating patch with:\noriginal:\n{}\nmodified:\n{}\ncurrent:\n{}\nfor: \
         patch:\n{patch}\nconflicts with changes made from original to current:\n{changes}",
        last_applied::text(current).unwrap_or_default(),
        last_applied::written(modified),
        last_applied::written(current),
    )
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use serde_json::json;

    use super::*;

    fn conflict() -> Overwritten {
        let object = |a: &str| json!({ "data": { "a": a }, "metadata": { "name": "x", "namespace": "default" } });
        let mut current = last_applied::record(object("1")).unwrap();
        current["data"]["a"] = "9".into();
        Overwritten {
            modified: last_applied::record(object("2")).unwrap(),
            current,
            patch: json!({ "data": { "a": "2" } }),
            changes: json!({ "data": { "a": "9" } }),
        }
    }

    #[test]
    fn the_message_is_that_of_kubectl() {
        let kind = kinds::named("cm").unwrap();
        let annotated = |inner: &str, a: &str| {
            format!(
                r#"{{"data":{{"a":"{a}"}},"metadata":{{"annotations":{{"kubectl.kubernetes.io/last-applied-configuration":"{{\"data\":{{\"a\":\"{inner}\"}},\"metadata\":{{\"annotations\":{{}},\"name\":\"x\",\"namespace\":\"default\"}}}}\n"}},"name":"x","namespace":"default"}}}}"#
            )
        };
        let expected = format!(
            "error when applying patch:\n\nto:\nResource: \"/v1, Resource=configmaps\", GroupVersionKind: \"/v1, \
             Kind=ConfigMap\"\nName: \"x\", Namespace: \"default\"\nfor: \"cm.yaml\": error when patching \"cm.yaml\": creating \
             patch with:\noriginal:\n{}\n\nmodified:\n{}\n\ncurrent:\n{}\n\nfor: patch:\ndata:\n  a: \"2\"\n\nconflicts with \
             changes made from original to current:\ndata:\n  a: \"9\"\n",
            r#"{"data":{"a":"1"},"metadata":{"annotations":{},"name":"x","namespace":"default"}}"#,
            annotated("2", "2"),
            annotated("1", "9"),
        );
        assert_eq!(refused(kind, &conflict(), "cm.yaml").to_string(), expected);
    }

    #[test]
    fn the_message_has_no_values_of_secrets() {
        let text = refused(kinds::named("secret").unwrap(), &conflict(), "s.yaml").to_string();
        assert!(
            text.ends_with(": patch conflicts with changes made from original to current"),
            "{text}"
        );
        let class = refused(kinds::named("sc").unwrap(), &conflict(), "s.yaml").to_string();
        assert!(
            class.contains("\"storage.k8s.io/v1, Resource=storageclasses\", GroupVersionKind: \"storage.k8s.io/v1, Kind=StorageClass\""),
            "{class}"
        );
    }
}
