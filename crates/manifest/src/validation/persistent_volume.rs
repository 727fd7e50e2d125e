//! Kubernetes' rules for PersistentVolumes: everything but the details of sources that microkube cannot mount.

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, HostPathVolumeSource, NFSVolumeSource, PersistentVolume, PersistentVolumeSpec,
    SecretReference, VolumeNodeAffinity,
};
use serde_json::{Map, Value};

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::super::quantity::Quantity;
use super::found::{Found, Shown};
use super::{metadata, scheduling, update};

/// `supportedAccessModes`
const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
/// `supportedReclaimPolicy`
const RECLAIM_POLICIES: [&str; 3] = ["Delete", "Recycle", "Retain"];
/// `supportedHostPathTypes`
const HOST_PATH_TYPES: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// The fields of a PersistentVolume's specification that are sources, in Kubernetes' order. Exactly one must be set.
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// All problems of the volume.
pub(crate) fn validate(volume: &PersistentVolume) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate_cluster_wide(&volume.metadata, names::dns_subdomain, &mut found);
    let none = PersistentVolumeSpec::default();
    let spec = volume.spec.as_ref().unwrap_or(&none);
    self::spec(spec, &FieldPath::default().field("spec"), &mut found);
    found.0
}

fn spec(spec: &PersistentVolumeSpec, path: &FieldPath, found: &mut Found) {
    access_modes(spec.access_modes.as_deref(), "", &path.field("accessModes"), found);
    capacity(spec, &path.field("capacity"), found);
    let policy = spec.persistent_volume_reclaim_policy.as_deref().unwrap_or_default();
    let policy_path = path.field("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        found.one_of(&policy_path, policy, &RECLAIM_POLICIES);
    }
    if let Some(affinity) = &spec.node_affinity {
        node_affinity(affinity, &path.field("nodeAffinity"), found);
    }
    let sources = sources(spec);
    let mut set = SOURCES.iter().filter(|name| sources.contains_key(**name));
    if set.next().is_none() {
        found.required(path, "must specify a volume type");
    }
    for name in set {
        found.forbidden(&path.field(name), "may not specify more than 1 volume type");
    }
    source(spec, path, found);
    if let Some(host_path) = &spec.host_path
        && policy == "Recycle"
        && host_path.path.split('/').all(|part| matches!(part, "" | "."))
        && host_path.path.starts_with('/')
    {
        found.forbidden(&policy_path, "may not be 'recycle' for a hostPath mount of '/'");
    }
    class_name(
        spec.storage_class_name.as_deref(),
        &path.field("storageClassName"),
        found,
    );
    volume_mode(spec.volume_mode.as_deref(), &path.field("volumeMode"), found);
    if let Some(class) = &spec.volume_attributes_class_name {
        let own = path.field("volumeAttributesClassName");
        if class.is_empty() {
            found.required(&own, "an empty string is disallowed");
        }
        class_name(Some(class), &own, found);
        if spec.csi.is_none() {
            let detail = "has to be specified when using volumeAttributesClassName";
            found.required(&path.field("csi"), detail);
        }
    }
}

/// Checks the access modes of a volume or a claim; `detail` says what is missing if there are none.
pub(super) fn access_modes(modes: Option<&[String]>, detail: &str, path: &FieldPath, found: &mut Found) {
    let modes = modes.unwrap_or_default();
    if modes.is_empty() {
        found.required(path, detail);
    }
    for (index, mode) in modes.iter().enumerate() {
        // Kubernetes names the list, not the element.
        let mut own = Found::default();
        own.one_of(path, mode, &ACCESS_MODES);
        found.extend_inside(own, path, &path.index(index));
    }
    let is_single = |mode: &&String| *mode == "ReadWriteOncePod";
    let others = modes
        .iter()
        .filter(|mode| ACCESS_MODES.contains(&mode.as_str()) && !is_single(mode));
    if modes.iter().any(|mode| is_single(&mode)) && others.count() > 0 {
        found.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks the name of a class, if there is one.
pub(super) fn class_name(name: Option<&str>, path: &FieldPath, found: &mut Found) {
    if let Some(name) = name.filter(|name| !name.is_empty()) {
        found.invalid_for_each(path, name, names::dns_subdomain(name));
    }
}

/// Checks a volume mode, if there is one.
pub(super) fn volume_mode(mode: Option<&str>, path: &FieldPath, found: &mut Found) {
    if let Some(mode) = mode {
        found.one_of(path, mode, &["Block", "Filesystem"]);
    }
}

/// Checks an amount that must be positive.
pub(super) fn positive(text: &str, path: &FieldPath, found: &mut Found) {
    match text.parse::<Quantity>() {
        Ok(amount) if amount > Quantity::default() => {}
        Ok(_) => found.invalid(path, text, "must be greater than zero"),
        Err(error) => found.invalid(path, text, error),
    }
}

fn capacity(spec: &PersistentVolumeSpec, path: &FieldPath, found: &mut Found) {
    let Some(capacity) = spec.capacity.as_ref().filter(|capacity| !capacity.is_empty()) else {
        return found.required(path, "");
    };
    if capacity.len() > 1 || !capacity.contains_key("storage") {
        let shown = serde_json::to_string(capacity).unwrap_or_default();
        let what = format_args!("Unsupported value: {shown}: supported values: \"storage\"").to_string();
        found.add(path, what);
    }
    for (name, amount) in capacity {
        let path = path.key(name);
        if let Ok(amount) = amount.0.parse::<Quantity>()
            && amount.units() < 0
        {
            found.invalid(&path, amount.units(), "must be a valid resource quantity");
        }
        positive(&amount.0, &path, found);
    }
}

/// `validateVolumeNodeAffinity`
fn node_affinity(affinity: &VolumeNodeAffinity, path: &FieldPath, found: &mut Found) {
    let path = path.field("required");
    let Some(required) = &affinity.required else {
        return found.required(&path, "must specify required node constraints");
    };
    let path = path.field("nodeSelectorTerms");
    if required.node_selector_terms.is_empty() {
        found.required(&path, "must have at least one node selector term");
    }
    for (index, term) in required.node_selector_terms.iter().enumerate() {
        scheduling::node_term(term, true, &path.index(index), found);
    }
}

/// The sources that are set, by field.
fn sources(spec: &PersistentVolumeSpec) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(spec) else {
        return Map::new();
    };
    fields.retain(|name, _| SOURCES.contains(&name.as_str()));
    fields
}

fn source(spec: &PersistentVolumeSpec, path: &FieldPath, found: &mut Found) {
    if let Some(source) = &spec.host_path {
        host_path(source, &path.field("hostPath"), found);
    }
    if let Some(source) = &spec.nfs {
        nfs(source, &path.field("nfs"), found);
    }
    if let Some(source) = &spec.local {
        let path = path.field("local").field("path");
        if source.path.is_empty() {
            found.required(&path, "");
        }
        found.no_backsteps(&path, &source.path);
    }
    if spec.local.is_some() && spec.node_affinity.is_none() {
        found.required(&path.field("nodeAffinity"), "Local volume requires node affinity");
    }
    if let Some(source) = &spec.csi {
        csi(source, &path.field("csi"), found);
    }
}

/// `validateHostPathVolumeSource`
pub(super) fn host_path(source: &HostPathVolumeSource, path: &FieldPath, found: &mut Found) {
    if source.path.is_empty() {
        return found.required(&path.field("path"), "");
    }
    found.no_backsteps(&path.field("path"), &source.path);
    if !source.path.starts_with('/') {
        // Kubernetes accepts it. The kubelet then takes it as relative to its own working directory.
        let shown = source.path.as_str().shown();
        let what = format_args!("{shown} is not supported by microkube yet: it is not an absolute path");
        found.add(&path.field("path"), what);
    }
    if let Some(own) = &source.type_ {
        found.one_of(&path.field("type"), own, &HOST_PATH_TYPES);
    }
}

fn nfs(source: &NFSVolumeSource, path: &FieldPath, found: &mut Found) {
    if source.server.is_empty() {
        found.required(&path.field("server"), "");
    }
    let path = path.field("path");
    if source.path.is_empty() {
        found.required(&path, "");
    }
    if !source.path.starts_with('/') {
        found.invalid(&path, source.path.as_str(), "must be an absolute path");
    }
}

fn csi(source: &CSIPersistentVolumeSource, path: &FieldPath, found: &mut Found) {
    let driver = path.field("driver");
    if source.driver.is_empty() {
        found.required(&driver, "");
    }
    if source.driver.len() > names::MAX_LABEL_BYTES {
        found.too_long(&driver, names::MAX_LABEL_BYTES);
    }
    found.invalid_for_each(
        &driver,
        &source.driver,
        names::dns_subdomain(&source.driver.to_lowercase()),
    );
    if source.volume_handle.is_empty() {
        found.required(&path.field("volumeHandle"), "");
    }
    for (field, secret) in [
        ("controllerPublishSecretRef", &source.controller_publish_secret_ref),
        ("controllerExpandSecretRef", &source.controller_expand_secret_ref),
        ("nodePublishSecretRef", &source.node_publish_secret_ref),
        ("nodeExpandSecretRef", &source.node_expand_secret_ref),
    ] {
        if let Some(secret) = secret {
            secret_reference(secret, &path.field(field), found);
        }
    }
}

/// `validatePVSecretReference`
fn secret_reference(secret: &SecretReference, path: &FieldPath, found: &mut Found) {
    match secret.name.as_deref().unwrap_or_default() {
        "" => found.required(&path.field("name"), ""),
        name => found.invalid_for_each(&path.field("name"), name, names::dns_subdomain(name)),
    }
    match secret.namespace.as_deref().unwrap_or_default() {
        "" => found.required(&path.field("namespace"), ""),
        namespace => found.invalid_for_each(&path.field("namespace"), namespace, names::dns_label(namespace)),
    }
}

/// All problems of a change.
pub(crate) fn validate_update(new: &PersistentVolume, old: &PersistentVolume) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    let root = FieldPath::default();
    let (new, old) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    // A reference that the old volume lacks may be added.
    let mut comparable = new.clone();
    if let (Some(new), Some(old)) = (&mut comparable.csi, &old.csi)
        && old.controller_expand_secret_ref.is_none()
    {
        new.controller_expand_secret_ref = None;
    }
    if !update::same(&sources(&comparable), &sources(&old)) {
        let detail = "spec.persistentvolumesource is immutable after creation";
        found.forbidden(&root.field("spec").field("persistentvolumesource"), detail);
    }
    if new.volume_mode != old.volume_mode {
        update::immutable(&new.volume_mode, &root.field("volumeMode"), &mut found);
    }
    if old.node_affinity.is_some() && !update::same(&new.node_affinity, &old.node_affinity) {
        update::immutable(&new.node_affinity, &root.field("nodeAffinity"), &mut found);
    }
    if old.volume_attributes_class_name.is_some() && new.volume_attributes_class_name.is_none() {
        let path = root.field("spec").field("volumeAttributesClassName");
        found.forbidden(&path, "update from non-nil value to nil is forbidden");
    }
    found.0
}
