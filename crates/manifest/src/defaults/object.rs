//! The defaults of objects other than Pods, and the API server's changes when it creates and updates an object
//! (`pkg/registry/core/*/strategy.go`).

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, ObjectReference, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::fill::fill;
use super::metadata::{cluster_wide, namespaced};
use super::volume::{host_path, volume_mode};

/// The label with a Namespace's name (`LabelMetadataName`).
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The finalizer in a Namespace's specification.
const NAMESPACE_FINALIZER: &str = "kubernetes";

/// Sets the defaults.
pub(crate) fn namespace(namespace: &mut Namespace) {
    cluster_wide(&mut namespace.metadata);
    if let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) {
        let labels = namespace.metadata.labels.get_or_insert_default();
        labels.insert(NAME_LABEL.to_owned(), name);
    }
    fill(&mut namespace.status.get_or_insert_default().phase, "Active");
}

/// Sets the defaults.
pub(crate) fn config_map(config_map: &mut ConfigMap) {
    namespaced(&mut config_map.metadata);
}

/// Sets the defaults, and merges `stringData` into `data`, where its values take precedence.
pub(crate) fn secret(secret: &mut Secret) {
    namespaced(&mut secret.metadata);
    fill(&mut secret.type_, "Opaque");
    for (key, value) in secret.string_data.take().into_iter().flatten() {
        let data = secret.data.get_or_insert_default();
        data.insert(key, ByteString(value.into_bytes()));
    }
}

/// Sets the defaults.
pub(crate) fn service_account(account: &mut ServiceAccount) {
    namespaced(&mut account.metadata);
}

/// Sets the defaults.
pub(crate) fn persistent_volume(volume: &mut PersistentVolume) {
    cluster_wide(&mut volume.metadata);
    fill(&mut volume.status.get_or_insert_default().phase, "Pending");
    let spec = volume.spec.get_or_insert_default();
    fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
    volume_mode(&mut spec.volume_mode);
    spec.host_path.iter_mut().for_each(host_path);
}

/// Sets the defaults.
pub(crate) fn persistent_volume_claim(claim: &mut PersistentVolumeClaim) {
    namespaced(&mut claim.metadata);
    fill(&mut claim.status.get_or_insert_default().phase, "Pending");
    volume_mode(&mut claim.spec.get_or_insert_default().volume_mode);
}

/// Sets the defaults.
pub(crate) fn storage_class(class: &mut StorageClass) {
    cluster_wide(&mut class.metadata);
    class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
    class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
}

/// A new Namespace is active, and the namespace controller's finalizer delays its end.
pub(crate) fn create_namespace(namespace: &mut Namespace) {
    namespace.status = None;
    let finalizers = namespace
        .spec
        .get_or_insert_default()
        .finalizers
        .get_or_insert_default();
    if !finalizers.iter().any(|finalizer| finalizer == NAMESPACE_FINALIZER) {
        finalizers.push(NAMESPACE_FINALIZER.to_owned());
    }
    self::namespace(namespace);
}

/// An update changes neither the finalizers of a Namespace nor its status; subresources do.
pub(crate) fn update_namespace(new: &mut Namespace, old: &Namespace) {
    new.spec.clone_from(&old.spec);
    new.status.clone_from(&old.status);
}

/// A ServiceAccount refers to its Secrets by name only.
pub(crate) fn clean_service_account(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference {
            name: secret.name.take(),
            ..ObjectReference::default()
        };
    }
}
