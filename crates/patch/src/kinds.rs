//! How the kinds merge: the `patchStrategy` and `patchMergeKey` tags of Kubernetes' types (k8s.io/api, 1.36).
//!
//! Lists without a line are replaced, among them `tolerations`, `command`, `args`, `envFrom`, `projected.sources` and a
//! ServiceAccount's `imagePullSecrets`.

use std::sync::LazyLock;

use super::schema::{Merge, Schema};

/// ObjectMeta, which all kinds have.
const METADATA: &[(&str, Merge)] = &[
    ("metadata.finalizers", Merge::Set),
    ("metadata.ownerReferences", Merge::by("uid")),
];

const POD: &[(&str, Merge)] = &[
    // PodSpec
    ("spec.containers", Merge::by("name")),
    ("spec.ephemeralContainers", Merge::SameAs("spec.containers")),
    ("spec.hostAliases", Merge::by("ip")),
    ("spec.imagePullSecrets", Merge::by("name")),
    ("spec.initContainers", Merge::SameAs("spec.containers")),
    ("spec.resourceClaims", Merge::by_retaining_keys("name")),
    ("spec.schedulingGates", Merge::by("name")),
    ("spec.topologySpreadConstraints", Merge::by("topologyKey")),
    ("spec.volumes", Merge::by_retaining_keys("name")),
    // Container
    ("spec.containers[].env", Merge::by("name")),
    ("spec.containers[].ports", Merge::by("containerPort")),
    ("spec.containers[].volumeDevices", Merge::by("devicePath")),
    ("spec.containers[].volumeMounts", Merge::by("mountPath")),
    // PersistentVolumeClaimTemplate
    (
        "spec.volumes[].ephemeral.volumeClaimTemplate.metadata",
        Merge::SameAs("metadata"),
    ),
    // PodStatus
    ("status.conditions", Merge::by("type")),
    ("status.hostIPs", Merge::by("ip")),
    ("status.podIPs", Merge::by("ip")),
    ("status.resourceClaimStatuses", Merge::by_retaining_keys("name")),
];

const NAMESPACE: &[(&str, Merge)] = &[("status.conditions", Merge::by("type"))];

const SERVICE_ACCOUNT: &[(&str, Merge)] = &[("secrets", Merge::by("name"))];

const PERSISTENT_VOLUME_CLAIM: &[(&str, Merge)] = &[("status.conditions", Merge::by("type"))];

/// Kinds of which only the metadata merges.
const PLAIN: &[(&str, Merge)] = &[];

/// How the fields of a kind merge, or `None` for a kind that has no strategic merge patch here.
pub fn schema_of(api_version: &str, kind: &str) -> Option<&'static Schema> {
    macro_rules! schema {
        ($table:expr) => {{
            static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new(METADATA.iter().chain($table)));
            Some(&*SCHEMA)
        }};
    }
    match (api_version, kind) {
        ("v1", "Pod") => schema!(POD),
        ("v1", "ConfigMap" | "PersistentVolume") | ("storage.k8s.io/v1", "StorageClass") => schema!(PLAIN),
        ("v1", "Secret") => {
            static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::new(METADATA).confidential());
            Some(&*SCHEMA)
        }
        ("v1", "Namespace") => schema!(NAMESPACE),
        ("v1", "ServiceAccount") => schema!(SERVICE_ACCOUNT),
        ("v1", "PersistentVolumeClaim") => schema!(PERSISTENT_VOLUME_CLAIM),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const TABLES: &[&[(&str, Merge)]] = &[
        METADATA,
        POD,
        NAMESPACE,
        SERVICE_ACCOUNT,
        PERSISTENT_VOLUME_CLAIM,
        PLAIN,
    ];

    #[test]
    fn no_field_is_there_twice() {
        for table in TABLES {
            let paths: HashSet<&str> = table.iter().map(|(path, _)| *path).collect();
            assert_eq!(paths.len(), table.len(), "{table:?}");
        }
    }

    #[test]
    fn elements_are_those_of_lists_in_the_table() {
        let lists = |path: &str| {
            let lists = POD.iter().filter(|(_, merge)| matches!(merge, Merge::List { .. }));
            lists.map(|(list, _)| *list).any(|list| list == path)
        };
        for (path, merge) in POD {
            if let Some((list, _)) = path.split_once("[]") {
                assert!(lists(list), "{path}");
            }
            if let Merge::SameAs(other) = merge {
                assert!(lists(other) || *other == "metadata", "{path}");
            }
        }
    }

    #[test]
    fn all_kinds_of_containers_merge_alike() {
        let pod = schema_of("v1", "Pod").unwrap().root();
        for containers in ["containers", "ephemeralContainers", "initContainers"] {
            let containers = pod.field("spec").field(containers);
            assert_eq!(containers.merge_key(), Some("name"));
            for (list, key) in [
                ("env", "name"),
                ("ports", "containerPort"),
                ("volumeDevices", "devicePath"),
                ("volumeMounts", "mountPath"),
            ] {
                assert_eq!(containers.field(list).merge_key(), Some(key));
            }
        }
    }

    #[test]
    fn all_kinds_merge_owner_references_and_finalizers() {
        for (api_version, kind) in [
            ("v1", "ConfigMap"),
            ("v1", "Namespace"),
            ("v1", "PersistentVolume"),
            ("v1", "PersistentVolumeClaim"),
            ("v1", "Pod"),
            ("v1", "Secret"),
            ("v1", "ServiceAccount"),
            ("storage.k8s.io/v1", "StorageClass"),
        ] {
            let metadata = schema_of(api_version, kind).unwrap().root().field("metadata");
            assert_eq!(metadata.field("ownerReferences").merge_key(), Some("uid"), "{kind}");
            assert!(metadata.field("finalizers").is_set(), "{kind}");
        }
        assert!(schema_of("v1", "Secret").unwrap().root().is_confidential());
        assert!(schema_of("v2", "Pod").is_none() && schema_of("example.com/v1", "Pod").is_none());
    }
}
