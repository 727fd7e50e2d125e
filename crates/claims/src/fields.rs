//! Reading and writing single fields of objects.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::api::resource;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use microkube_manifest::quantity::Quantity;

use crate::keys::{self, STORAGE, phase};

/// The namespace and the name of a claim.
pub(crate) type Key = (String, String);

/// Amounts by resource.
pub(crate) type Amounts = BTreeMap<String, resource::Quantity>;

pub(crate) fn text(text: &Option<String>) -> &str {
    text.as_deref().unwrap_or_default()
}

pub(crate) fn key(metadata: &ObjectMeta) -> Key {
    (text(&metadata.namespace).to_owned(), text(&metadata.name).to_owned())
}

/// `namespace/name`
pub(crate) fn qualified(metadata: &ObjectMeta) -> String {
    format!("{}/{}", text(&metadata.namespace), text(&metadata.name))
}

pub(crate) fn is_deleting(metadata: &ObjectMeta) -> bool {
    metadata.deletion_timestamp.is_some()
}

pub(crate) fn annotation<'m>(metadata: &'m ObjectMeta, key: &str) -> Option<&'m str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(crate) fn annotate(metadata: &mut ObjectMeta, key: &str, value: &str) {
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(key.to_owned(), value.to_owned());
}

/// Adds an annotation, unless there is one with another value.
pub(crate) fn annotate_once(metadata: &mut ObjectMeta, key: &str) {
    if annotation(metadata, key).is_none() {
        annotate(metadata, key, keys::YES);
    }
}

pub(crate) fn remove_annotation(metadata: &mut ObjectMeta, key: &str) {
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(key);
        if annotations.is_empty() {
            metadata.annotations = None;
        }
    }
}

pub(crate) fn has_finalizer(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|known| known == finalizer)
}

pub(crate) fn add_finalizer(metadata: &mut ObjectMeta, finalizer: &str) {
    if !has_finalizer(metadata, finalizer) {
        metadata.finalizers.get_or_insert_default().push(finalizer.to_owned());
    }
}

pub(crate) fn remove_finalizer(metadata: &mut ObjectMeta, finalizer: &str) {
    if let Some(finalizers) = &mut metadata.finalizers {
        finalizers.retain(|known| known != finalizer);
        if finalizers.is_empty() {
            metadata.finalizers = None;
        }
    }
}

pub(crate) fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().map_or("", |status| text(&status.phase))
}

pub(crate) fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().map_or("", |status| text(&status.phase))
}

/// Sets the phase and the message of a volume. A phase that stays keeps its message.
pub(crate) fn set_volume_phase(volume: &mut PersistentVolume, phase: &str, message: &str, now: &Time) {
    if volume_phase(volume) != phase {
        let status = volume.status.get_or_insert_default();
        status.phase = Some(phase.to_owned());
        status.message = (!message.is_empty()).then(|| message.to_owned());
        status.last_phase_transition_time = Some(now.clone());
    }
}

/// The name of the volume in a claim; empty if the claim has none.
pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().map_or("", |spec| text(&spec.volume_name))
}

pub(crate) fn claim_reference(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// `IsVolumeBoundToClaim`: whether the volume is reserved for the claim, or bound to it.
pub(crate) fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = claim_reference(volume) else {
        return false;
    };
    let metadata = &claim.metadata;
    text(&reference.name) == text(&metadata.name)
        && text(&reference.namespace) == text(&metadata.namespace)
        && (text(&reference.uid).is_empty() || text(&reference.uid) == text(&metadata.uid))
}

/// Whether the binding of a claim is complete (`isPVCFullyBound`).
pub(crate) fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, keys::BIND_COMPLETED).is_some()
}

/// The amount of storage; 0 if there is none, or it is not a quantity.
pub(crate) fn storage(amounts: Option<&Amounts>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get(STORAGE));
    amount.and_then(|amount| amount.0.parse().ok()).unwrap_or_default()
}

pub(crate) fn requests(claim: &PersistentVolumeClaim) -> Option<&Amounts> {
    claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()
}

pub(crate) fn capacity(volume: &PersistentVolume) -> Option<&Amounts> {
    volume.spec.as_ref()?.capacity.as_ref()
}

pub(crate) fn claim_modes(claim: &PersistentVolumeClaim) -> &[String] {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

pub(crate) fn volume_modes(volume: &PersistentVolume) -> &[String] {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

pub(crate) fn is_block(mode: Option<&String>) -> bool {
    mode.is_some_and(|mode| mode == "Block")
}

/// Whether the Pod's containers have ended for good (`IsPodTerminated`).
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().map_or("", |status| text(&status.phase));
    phase == "Succeeded" || phase == "Failed"
}

/// Whether a Pod may start, or has started, on the node. Without a scheduler, each Pod without scheduling gates does.
pub(crate) fn is_on_node(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    !text(&spec.node_name).is_empty() || spec.scheduling_gates.iter().flatten().next().is_none()
}

/// `Pending`, also if the phase is missing.
pub(crate) fn is_pending(phase: &str) -> bool {
    phase.is_empty() || phase == phase::PENDING
}
