//! The pages of objects other than Pods (`kubectl/pkg/describe/describe.go`). A Secret's page has no values.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, NodeSelectorRequirement, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod,
    Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use microkube_manifest::kinds::{self, Kind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::super::objects::arguments::{Group, Requested};
use super::super::objects::listing::Reader;
use super::super::objects::volumes::{access_modes, class, is_default_class};
use super::super::table::since;
use super::event_list::{self, Listed};
use super::metadata::{annotations, labels};
use super::page::Page;
use crate::state::ObjectEvent;

const TOKEN_TYPE: &str = "kubernetes.io/service-account-token";

/// Other objects that a page mentions.
#[derive(Debug, Default)]
pub(super) struct Surroundings {
    /// The Secrets of a ServiceAccount's namespace.
    secrets: Vec<Secret>,
    /// The Pods of a claim's namespace.
    pods: Vec<Pod>,
}

impl Surroundings {
    /// Reads what the page of this object needs.
    ///
    /// # Errors
    /// If the objects cannot be read.
    pub(super) fn read(reader: &Reader, kind: &Kind, object: &Value) -> anyhow::Result<Self> {
        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
        let all_of = |kind: &str| -> anyhow::Result<Vec<Value>> {
            let Some(kind) = kinds::named(kind) else {
                return Ok(Vec::new());
            };
            let requested = Requested {
                namespace: namespace.map(str::to_owned),
                ..Requested::default()
            };
            let names = Vec::new();
            Ok(reader.read(&Group { kind, names }, &requested)?.objects)
        };
        Ok(match kind.kind {
            "ServiceAccount" => Self {
                secrets: all_of("secrets")?.iter().map(typed).collect(),
                ..Self::default()
            },
            "PersistentVolumeClaim" => Self {
                pods: all_of("pods")?.iter().map(typed).collect(),
                ..Self::default()
            },
            _ => Self::default(),
        })
    }
}

/// The page of an object. `events` are those of all objects; without them, the page has no events.
pub(super) fn page(
    kind: &Kind,
    object: &Value,
    surroundings: &Surroundings,
    events: Option<&[ObjectEvent]>,
    now: Timestamp,
    zone: &TimeZone,
) -> String {
    let mut page = Page::new(zone.clone());
    let mut has_events = true;
    match kind.kind {
        "ConfigMap" => config_map(&mut page, &typed(object)),
        "Namespace" => {
            namespace(&mut page, &typed(object));
            has_events = false;
        }
        "PersistentVolume" => persistent_volume(&mut page, &typed(object), now),
        "PersistentVolumeClaim" => persistent_volume_claim(&mut page, &typed(object), surroundings, now),
        "Secret" => {
            secret(&mut page, &typed(object));
            has_events = false;
        }
        "ServiceAccount" => service_account(&mut page, &typed(object), surroundings),
        "StorageClass" => storage_class(&mut page, &typed(object)),
        _ => head(&mut page, &object.get("metadata").map(typed).unwrap_or_default()),
    }
    if let Some(events) = events.filter(|_| has_events) {
        let uid = object
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let own = events.iter().filter(|kept| kept.object.uid == uid);
        let own = own.map(|kept| Listed {
            from: &kept.component,
            event: &kept.event,
        });
        event_list::list(&mut page, own, now);
    }
    page.finish()
}

/// The object's content, or nothing if it has another form.
fn typed<T: DeserializeOwned + Default>(object: &Value) -> T {
    T::deserialize(object).unwrap_or_default()
}

fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// Name, namespace, labels and annotations.
fn head(page: &mut Page, metadata: &ObjectMeta) {
    page.field(0, "Name", text(&metadata.name));
    if metadata.namespace.is_some() {
        page.field(0, "Namespace", text(&metadata.namespace));
    }
    labels(page, "Labels", metadata.labels.as_ref());
    annotations(page, metadata.annotations.as_ref());
}

fn config_map(page: &mut Page, config_map: &ConfigMap) {
    head(page, &config_map.metadata);
    page.verbatim("\nData\n====");
    for (key, value) in config_map.data.iter().flatten() {
        page.verbatim(&format!("{key}:\n----\n{value}\n"));
    }
    page.verbatim("\nBinaryData\n====");
    for (key, value) in config_map.binary_data.iter().flatten() {
        page.verbatim(&format!("{key}: {} bytes", value.0.len()));
    }
    page.gap();
}

fn secret(page: &mut Page, secret: &Secret) {
    head(page, &secret.metadata);
    page.gap();
    page.field(0, "Type", text(&secret.type_));
    page.verbatim("\nData\n====");
    for (key, value) in secret.data.iter().flatten() {
        page.field(0, key, &format!("{} bytes", value.0.len()));
    }
}

fn namespace(page: &mut Page, namespace: &Namespace) {
    head(page, &namespace.metadata);
    let status = namespace.status.clone().unwrap_or_default();
    page.field(0, "Status", text(&status.phase));
    let conditions = status.conditions.unwrap_or_default();
    if !conditions.is_empty() {
        page.title(0, "Conditions");
        page.cells(1, &["Type", "Status", "LastTransitionTime", "Reason", "Message"]);
        page.cells(1, &["----", "------", "------------------", "------", "-------"]);
    }
    for condition in &conditions {
        let time = page.shown_time(condition.last_transition_time.as_ref());
        let (reason, message) = (text(&condition.reason), text(&condition.message));
        page.cells(1, &[&condition.type_, &condition.status, &time, reason, message]);
    }
    page.verbatim("\nNo resource quota.\n\nNo LimitRange resource.");
}

fn service_account(page: &mut Page, account: &ServiceAccount, surroundings: &Surroundings) {
    let metadata = &account.metadata;
    head(page, metadata);
    let exists = |name: &str| {
        let mut names = surroundings.secrets.iter().map(|secret| text(&secret.metadata.name));
        names.any(|known| known == name)
    };
    let shown = |name: &str| match exists(name) {
        true => name.to_owned(),
        false => format!("{name} (not found)"),
    };
    let is_token = |secret: &&Secret| {
        let annotation = |key: &str| secret.metadata.annotations.as_ref()?.get(key).cloned();
        secret.type_.as_deref() == Some(TOKEN_TYPE)
            && annotation("kubernetes.io/service-account.name") == metadata.name
            && annotation("kubernetes.io/service-account.uid") == metadata.uid
    };
    let pulls = account.image_pull_secrets.iter().flatten();
    let mounts = account.secrets.iter().flatten();
    let tokens = surroundings.secrets.iter().filter(is_token);
    for (title, names) in [
        (
            "Image pull secrets",
            pulls.map(|secret| shown(&secret.name)).collect::<Vec<_>>(),
        ),
        (
            "Mountable secrets",
            mounts.map(|secret| shown(text(&secret.name))).collect(),
        ),
        (
            "Tokens",
            tokens.map(|secret| text(&secret.metadata.name).to_owned()).collect(),
        ),
    ] {
        page.list(0, title, &names);
    }
}

fn persistent_volume(page: &mut Page, volume: &PersistentVolume, now: Timestamp) {
    let metadata = &volume.metadata;
    let spec = volume.spec.clone().unwrap_or_default();
    let status = volume.status.clone().unwrap_or_default();
    head(page, metadata);
    page.field(0, "Finalizers", &go_list(metadata.finalizers.as_deref()));
    page.field(0, "StorageClass", &class(metadata, spec.storage_class_name.as_deref()));
    page.field(0, "Status", &phase(metadata, text(&status.phase), now));
    let claim = spec.claim_ref.as_ref();
    let claim = claim.map(|claim| format!("{}/{}", text(&claim.namespace), text(&claim.name)));
    page.field(0, "Claim", &claim.unwrap_or_default());
    page.field(0, "Reclaim Policy", text(&spec.persistent_volume_reclaim_policy));
    page.field(0, "Access Modes", &access_modes(spec.access_modes.as_deref()));
    if let Some(mode) = &spec.volume_mode {
        page.field(0, "VolumeMode", mode);
    }
    page.field(0, "Capacity", &storage(spec.capacity.as_ref()));
    node_affinity(page, &spec);
    page.field(0, "Message", text(&status.message));
    page.title(0, "Source");
    volume_source(page, &spec);
}

fn node_affinity(page: &mut Page, spec: &PersistentVolumeSpec) {
    let Some(required) = spec
        .node_affinity
        .as_ref()
        .and_then(|affinity| affinity.required.as_ref())
    else {
        page.field(0, "Node Affinity", "<none>");
        return;
    };
    page.field(0, "Node Affinity", "");
    if required.node_selector_terms.is_empty() {
        page.field(1, "Required Terms", "<none>");
        return;
    }
    page.field(1, "Required Terms", "");
    for (index, term) in required.node_selector_terms.iter().enumerate() {
        let requirements = term.match_expressions.iter().flatten().map(requirement);
        page.list(2, &format!("Term {index}"), &requirements.collect::<Vec<_>>());
    }
}

fn requirement(requirement: &NodeSelectorRequirement) -> String {
    let mut line = format!("{} {}", requirement.key, requirement.operator.to_lowercase());
    let values = requirement.values.as_deref().unwrap_or_default();
    if !values.is_empty() {
        line += &format!(" [{}]", values.join(", "));
    }
    line
}

fn volume_source(page: &mut Page, spec: &PersistentVolumeSpec) {
    if let Some(source) = &spec.host_path {
        page.field(2, "Type", "HostPath (bare host directory volume)");
        page.field(2, "Path", &source.path);
        page.field(2, "HostPathType", text(&source.type_));
    } else if let Some(source) = &spec.nfs {
        page.field(2, "Type", "NFS (an NFS mount that lasts the lifetime of a pod)");
        page.field(2, "Server", &source.server);
        page.field(2, "Path", &source.path);
        page.field(2, "ReadOnly", &source.read_only.unwrap_or(false).to_string());
    } else if let Some(source) = &spec.local {
        let what = "LocalVolume (a persistent volume backed by local storage on a node)";
        page.field(2, "Type", what);
        page.field(2, "Path", &source.path);
    } else if let Some(source) = &spec.csi {
        let what = "CSI (a Container Storage Interface (CSI) volume source)";
        page.field(2, "Type", what);
        page.field(2, "Driver", &source.driver);
        page.field(2, "FSType", text(&source.fs_type));
        page.field(2, "VolumeHandle", &source.volume_handle);
        page.field(2, "ReadOnly", &source.read_only.unwrap_or(false).to_string());
        let attributes = source.volume_attributes.iter().flatten();
        let attributes: Vec<String> = attributes.map(|(key, value)| format!("{key}={value}")).collect();
        page.list(2, "VolumeAttributes", &attributes);
    } else {
        page.word(1, "<unknown>");
    }
}

fn persistent_volume_claim(
    page: &mut Page,
    claim: &PersistentVolumeClaim,
    surroundings: &Surroundings,
    now: Timestamp,
) {
    let metadata = &claim.metadata;
    let spec = claim.spec.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    page.field(0, "Name", text(&metadata.name));
    page.field(0, "Namespace", text(&metadata.namespace));
    page.field(0, "StorageClass", &class(metadata, spec.storage_class_name.as_deref()));
    page.field(0, "Status", &phase(metadata, text(&status.phase), now));
    page.field(0, "Volume", text(&spec.volume_name));
    labels(page, "Labels", metadata.labels.as_ref());
    annotations(page, metadata.annotations.as_ref());
    page.field(0, "Finalizers", &go_list(metadata.finalizers.as_deref()));
    let (mut capacity, mut modes) = (String::new(), String::new());
    if !text(&spec.volume_name).is_empty() {
        capacity = storage(status.capacity.as_ref());
        modes = access_modes(status.access_modes.as_deref());
    }
    page.field(0, "Capacity", &capacity);
    page.field(0, "Access Modes", &modes);
    if let Some(mode) = &spec.volume_mode {
        page.field(0, "VolumeMode", mode);
    }
    if let Some(source) = &spec.data_source {
        page.title(0, "DataSource");
        if let Some(group) = &source.api_group {
            page.field(1, "APIGroup", group);
        }
        page.field(1, "Kind", &source.kind);
        page.field(1, "Name", &source.name);
    }
    page.list(0, "Used By", &users(metadata, &surroundings.pods));
    let conditions = status.conditions.unwrap_or_default();
    if conditions.is_empty() {
        return;
    }
    page.title(0, "Conditions");
    page.cells(
        1,
        &[
            "Type",
            "Status",
            "LastProbeTime",
            "LastTransitionTime",
            "Reason",
            "Message",
        ],
    );
    page.cells(
        1,
        &[
            "----",
            "------",
            "-----------------",
            "------------------",
            "------",
            "-------",
        ],
    );
    for condition in &conditions {
        let probed = time_or_zero(page, condition.last_probe_time.as_ref());
        let changed = time_or_zero(page, condition.last_transition_time.as_ref());
        let (kind, status) = (condition.type_.as_str(), condition.status.as_str());
        let cells = [kind, status, &probed, &changed, text(&condition.reason)];
        let mut cells = cells.map(|cell| format!("{cell} ")).to_vec();
        cells.push(text(&condition.message).to_owned());
        page.cells(1, &cells.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

/// A time that kubectl shows although it is not set.
fn time_or_zero(page: &Page, time: Option<&Time>) -> String {
    match time {
        Some(time) => page.shown_time(Some(time)),
        None => "Mon, 01 Jan 0001 00:00:00 +0000".to_owned(),
    }
}

/// The Pods that use a claim, and those that it was created for (`getPodsForPVC`).
fn users(claim: &ObjectMeta, pods: &[Pod]) -> Vec<String> {
    let names_it = |pod: &&Pod| {
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
        claims.any(|used| used.claim_name == text(&claim.name))
    };
    let owns_it = |pod: &&Pod| {
        let mut owners = claim.owner_references.iter().flatten();
        owners.any(|owner| owner.kind == "Pod" && owner.uid == text(&pod.metadata.uid))
    };
    let mut users: Vec<&Pod> = pods.iter().filter(names_it).collect();
    let owners = pods.iter().filter(owns_it).filter(|pod| !names_it(pod));
    users.extend(owners);
    users
        .into_iter()
        .map(|pod| text(&pod.metadata.name).to_owned())
        .collect()
}

fn storage_class(page: &mut Page, storage_class: &StorageClass) {
    let metadata = &storage_class.metadata;
    page.field(0, "Name", text(&metadata.name));
    let is_default = if is_default_class(metadata) { "Yes" } else { "No" };
    page.field(0, "IsDefaultClass", is_default);
    page.field(0, "Annotations", &joined(metadata.annotations.as_ref()));
    page.field(0, "Provisioner", &storage_class.provisioner);
    page.field(0, "Parameters", &joined(storage_class.parameters.as_ref()));
    let expansion = match storage_class.allow_volume_expansion {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    page.field(0, "AllowVolumeExpansion", expansion);
    match storage_class.mount_options.as_deref().unwrap_or_default() {
        [] => page.field(0, "MountOptions", "<none>"),
        options => {
            page.title(0, "MountOptions");
            options.iter().for_each(|option| page.word(1, option));
        }
    }
    if let Some(policy) = &storage_class.reclaim_policy {
        page.field(0, "ReclaimPolicy", policy);
    }
    if let Some(mode) = &storage_class.volume_binding_mode {
        page.field(0, "VolumeBindingMode", mode);
    }
    if let Some(topologies) = &storage_class.allowed_topologies {
        let none = if topologies.is_empty() { "<none>" } else { "" };
        page.field(0, "AllowedTopologies", none);
        for (index, term) in topologies.iter().enumerate() {
            let expressions = term.match_label_expressions.iter().flatten();
            let expressions = expressions.map(|own| format!("{} in [{}]", own.key, own.values.join(", ")));
            page.list(1, &format!("Term {index}"), &expressions.collect::<Vec<_>>());
        }
    }
}

fn phase(metadata: &ObjectMeta, phase: &str, now: Timestamp) -> String {
    match &metadata.deletion_timestamp {
        Some(deleted) => format!("Terminating (lasts {})", since(Some(deleted.0), now)),
        None => phase.to_owned(),
    }
}

/// A missing quantity is 0.
fn storage(quantities: Option<&BTreeMap<String, Quantity>>) -> String {
    let storage = quantities.and_then(|quantities| quantities.get("storage"));
    storage.map_or_else(|| "0".to_owned(), |storage| storage.0.clone())
}

/// As Go prints a list.
fn go_list(list: Option<&[String]>) -> String {
    format!("[{}]", list.unwrap_or_default().join(" "))
}

/// `a=b,c=d`
fn joined(texts: Option<&BTreeMap<String, String>>) -> String {
    let texts = texts.into_iter().flatten();
    let texts: Vec<String> = texts.map(|(key, value)| format!("{key}={value}")).collect();
    match texts.is_empty() {
        true => "<none>".to_owned(),
        false => texts.join(","),
    }
}

#[cfg(test)]
mod tests;
