//! Texts about volumes, shared by tables and descriptions (`pkg/apis/core/v1/helper`, `pkg/apis/storage/util`).

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The access modes, and their abbreviations, in kubectl's order.
const ACCESS_MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// `RWO,RWX`
pub(in crate::cli) fn access_modes(modes: Option<&[String]>) -> String {
    let has = |name: &str| modes.unwrap_or_default().iter().any(|mode| mode == name);
    let found = ACCESS_MODES.iter().filter(|(name, _)| has(name));
    found.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

/// The StorageClass of a volume or a claim. The deprecated annotation takes precedence.
pub(in crate::cli) fn class(metadata: &ObjectMeta, of_spec: Option<&str>) -> String {
    let annotation = annotation(metadata, "volume.beta.kubernetes.io/storage-class");
    annotation.or(of_spec).unwrap_or_default().to_owned()
}

/// Whether claims without a StorageClass get this one.
pub(in crate::cli) fn is_default_class(metadata: &ObjectMeta) -> bool {
    [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| annotation(metadata, key) == Some("true"))
}

fn annotation<'m>(metadata: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
