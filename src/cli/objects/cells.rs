//! The cells of each kind, by the rules of `kubectl get` (`pkg/printers/internalversion/printers.go`).

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition, Secret,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use microkube_manifest::kinds::Kind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::pods::status_column;
use super::super::table::since;
use super::volumes::{access_modes, class, is_default_class};

const UNSET: &str = "<unset>";

/// The cells of an object, one for each of the kind's columns.
pub(super) fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<String> {
    match kind.kind {
        "ConfigMap" => config_map(&typed(object), now),
        "Namespace" => namespace(&typed(object), now),
        "PersistentVolume" => persistent_volume(&typed(object), now),
        "PersistentVolumeClaim" => persistent_volume_claim(&typed(object), now),
        "Pod" => pod(&typed(object), now),
        "Secret" => secret(&typed(object), now),
        "StorageClass" => storage_class(&typed(object), now),
        _ => {
            let metadata = object.get("metadata").map(typed).unwrap_or_default();
            vec![name(&metadata), age(&metadata, now)]
        }
    }
}

/// The typed object, or an empty one if the content has another form.
fn typed<T: DeserializeOwned + Default>(object: &Value) -> T {
    T::deserialize(object).unwrap_or_default()
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn age(metadata: &ObjectMeta, now: Timestamp) -> String {
    since(metadata.creation_timestamp.as_ref().map(|time| time.0), now)
}

fn config_map(config_map: &ConfigMap, now: Timestamp) -> Vec<String> {
    let texts = config_map.data.as_ref().map_or(0, |data| data.len());
    let binary = config_map.binary_data.as_ref().map_or(0, |data| data.len());
    let metadata = &config_map.metadata;
    vec![name(metadata), (texts + binary).to_string(), age(metadata, now)]
}

fn secret(secret: &Secret, now: Timestamp) -> Vec<String> {
    let metadata = &secret.metadata;
    vec![
        name(metadata),
        secret.type_.clone().unwrap_or_default(),
        secret.data.as_ref().map_or(0, |data| data.len()).to_string(),
        age(metadata, now),
    ]
}

fn namespace(namespace: &Namespace, now: Timestamp) -> Vec<String> {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.clone());
    let metadata = &namespace.metadata;
    vec![name(metadata), phase.unwrap_or_default(), age(metadata, now)]
}

fn persistent_volume(volume: &PersistentVolume, now: Timestamp) -> Vec<String> {
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.clone().unwrap_or_default();
    let metadata = &volume.metadata;
    let claim = spec.claim_ref.map(|claim| {
        let part = Option::unwrap_or_default;
        format!("{}/{}", part(claim.namespace), part(claim.name))
    });
    vec![
        name(metadata),
        storage(spec.capacity.as_ref()),
        access_modes(spec.access_modes.as_deref()),
        spec.persistent_volume_reclaim_policy.unwrap_or_default(),
        phase(metadata, status.phase),
        claim.unwrap_or_default(),
        class(metadata, spec.storage_class_name.as_deref()),
        spec.volume_attributes_class_name.unwrap_or_else(|| UNSET.to_owned()),
        status.reason.unwrap_or_default(),
        age(metadata, now),
        spec.volume_mode.unwrap_or_else(|| UNSET.to_owned()),
    ]
}

fn persistent_volume_claim(claim: &PersistentVolumeClaim, now: Timestamp) -> Vec<String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let metadata = &claim.metadata;
    let volume = spec.volume_name.unwrap_or_default();
    let (mut capacity, mut modes) = (String::new(), String::new());
    if !volume.is_empty() {
        capacity = storage(status.capacity.as_ref());
        modes = access_modes(status.access_modes.as_deref());
    }
    vec![
        name(metadata),
        phase(metadata, status.phase),
        volume,
        capacity,
        modes,
        class(metadata, spec.storage_class_name.as_deref()),
        spec.volume_attributes_class_name.unwrap_or_else(|| UNSET.to_owned()),
        age(metadata, now),
        spec.volume_mode.unwrap_or_else(|| UNSET.to_owned()),
    ]
}

/// A missing quantity is 0.
fn storage(quantities: Option<&std::collections::BTreeMap<String, Quantity>>) -> String {
    let storage = quantities.and_then(|quantities| quantities.get("storage"));
    storage.map_or_else(|| "0".to_owned(), |storage| storage.0.clone())
}

fn phase(metadata: &ObjectMeta, phase: Option<String>) -> String {
    match metadata.deletion_timestamp {
        Some(_) => "Terminating".to_owned(),
        None => phase.unwrap_or_default(),
    }
}

fn storage_class(storage_class: &StorageClass, now: Timestamp) -> Vec<String> {
    let metadata = &storage_class.metadata;
    let or = |value: &Option<String>, default: &str| value.clone().unwrap_or_else(|| default.to_owned());
    let default = if is_default_class(metadata) { " (default)" } else { "" };
    vec![
        format!("{}{default}", name(metadata)),
        storage_class.provisioner.clone(),
        or(&storage_class.reclaim_policy, "Delete"),
        or(&storage_class.volume_binding_mode, "Immediate"),
        storage_class.allow_volume_expansion.unwrap_or(false).to_string(),
        age(metadata, now),
    ]
}

fn pod(pod: &Pod, now: Timestamp) -> Vec<String> {
    let none = || "<none>".to_owned();
    let cells = status_column::cells(pod, now);
    let first_ip = pod.status.as_ref().and_then(|status| {
        let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
        ips.chain(status.pod_ip.clone()).find(|ip| !ip.is_empty())
    });
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    vec![
        name(&pod.metadata),
        cells.ready,
        cells.status,
        cells.restarts,
        age(&pod.metadata, now),
        first_ip.unwrap_or_else(none),
        node.unwrap_or_else(none),
        none(),
        readiness_gates(pod),
    ]
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions: Vec<&PodCondition> = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .collect();
    let (mut all, mut met) = (0, 0);
    for gate in gates {
        all += 1;
        let is_met = |condition: &&PodCondition| condition.type_ == gate.condition_type && condition.status == "True";
        met += usize::from(conditions.iter().any(is_met));
    }
    match all {
        0 => "<none>".to_owned(),
        _ => format!("{met}/{all}"),
    }
}
