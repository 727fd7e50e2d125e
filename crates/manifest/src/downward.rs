//! The Pod fields that a container can refer to (`fieldRef`, the downward API).

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Pod;

/// Values that are known only once the Pod runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodStatusFields {
    pub uid: String,
    /// The Pod's address, if it has a network.
    pub pod_ip: Option<Ipv4Addr>,
    /// The host's address in the Pod's network.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's name.
    pub node_name: String,
}

/// The paths that a variable can refer to, besides `metadata.labels['<KEY>']` and `metadata.annotations['<KEY>']`.
pub(crate) const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// The value of a field; an empty string if the Pod does not have it.
pub fn field(path: &str, pod: &Pod, status: &PodStatusFields) -> Option<String> {
    let metadata = &pod.metadata;
    let ip = |address: Option<Ipv4Addr>| address.map(|address| address.to_string()).unwrap_or_default();
    Some(match path {
        "metadata.name" => metadata.name.clone().unwrap_or_default(),
        "metadata.namespace" => metadata.namespace.clone().unwrap_or_default(),
        "metadata.uid" => status.uid.clone(),
        "spec.nodeName" => status.node_name.clone(),
        "spec.serviceAccountName" => pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.clone())
            .unwrap_or_default(),
        "status.hostIP" | "status.hostIPs" => ip(status.host_ip),
        "status.podIP" | "status.podIPs" => ip(status.pod_ip),
        _ => {
            let (list, key) = subscript(path)?;
            let map = if list == "labels" {
                &metadata.labels
            } else {
                &metadata.annotations
            };
            map.as_ref().and_then(|map| map.get(key)).cloned().unwrap_or_default()
        }
    })
}

/// `metadata.labels['key']` as `("labels", "key")` (`SplitMaybeSubscriptedPath`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (list, key) = path.strip_prefix("metadata.")?.strip_suffix("']")?.split_once("['")?;
    (["labels", "annotations"].contains(&list) && !key.is_empty()).then_some((list, key))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_field_has_a_value() {
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "web", "namespace": "n", "labels": {"a.b/c": "x"}, "annotations": {"d": "y"}},
            "spec": {"containers": [], "serviceAccountName": "robot"}
        }))
        .unwrap();
        let status = PodStatusFields {
            uid: "u-1".into(),
            pod_ip: Some(Ipv4Addr::new(10, 88, 0, 2)),
            host_ip: Some(Ipv4Addr::new(10, 88, 0, 1)),
            node_name: "node".into(),
        };
        let get = |path: &str| field(path, &pod, &status);
        let values: Vec<_> = FIELDS.iter().map(|path| get(path).unwrap()).collect();
        assert_eq!(
            values,
            [
                "web",
                "n",
                "u-1",
                "node",
                "robot",
                "10.88.0.1",
                "10.88.0.1",
                "10.88.0.2",
                "10.88.0.2"
            ]
        );
        assert_eq!(get("metadata.labels['a.b/c']").as_deref(), Some("x"));
        assert_eq!(get("metadata.annotations['d']").as_deref(), Some("y"));
        assert_eq!(get("metadata.labels['none']").as_deref(), Some(""));
        for path in [
            "metadata.labels",
            "metadata.labels['']",
            "metadata.other['a']",
            "spec.containers",
            "",
        ] {
            assert_eq!(get(path), None, "{path}");
        }
    }
}
