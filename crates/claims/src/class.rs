//! StorageClasses: the class of a claim or a volume, the default class, and when a class binds.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::fields::{annotation, text};
use crate::keys;
use crate::state::State;

/// `GetPersistentVolumeClaimClass`: the name of the claim's class; empty for none.
pub(crate) fn of_claim(claim: &PersistentVolumeClaim) -> &str {
    let own = claim.spec.as_ref().map_or("", |spec| text(&spec.storage_class_name));
    annotation(&claim.metadata, keys::CLASS).unwrap_or(own)
}

/// `PersistentVolumeClaimHasClass`: whether the claim names a class, or explicitly none.
pub(crate) fn is_chosen(claim: &PersistentVolumeClaim) -> bool {
    let spec = claim.spec.as_ref();
    annotation(&claim.metadata, keys::CLASS).is_some() || spec.is_some_and(|spec| spec.storage_class_name.is_some())
}

/// `GetPersistentVolumeClass`: the name of the volume's class; empty for none.
pub(crate) fn of_volume(volume: &PersistentVolume) -> &str {
    let own = volume.spec.as_ref().map_or("", |spec| text(&spec.storage_class_name));
    annotation(&volume.metadata, keys::CLASS).unwrap_or(own)
}

/// `GetDefaultClass`: the class of claims that name none. The newest default class wins, then the first by name.
pub(crate) fn default(classes: &[StorageClass]) -> Option<&StorageClass> {
    let is_default = |class: &&StorageClass| {
        let mut keys = keys::DEFAULT_CLASS.iter();
        keys.any(|key| annotation(&class.metadata, key) == Some("true"))
    };
    classes.iter().filter(is_default).min_by(|a, b| {
        let created = |class: &StorageClass| class.metadata.creation_timestamp.clone();
        created(b)
            .cmp(&created(a))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}

/// Gives a claim without a class the default one. Returns whether there is one.
pub(crate) fn assign_default(claim: &mut PersistentVolumeClaim, classes: &[StorageClass]) -> bool {
    let Some(class) = default(classes).filter(|_| !is_chosen(claim)) else {
        return false;
    };
    claim.spec.get_or_insert_default().storage_class_name = class.metadata.name.clone();
    true
}

/// `IsDelayBindingMode`: whether the claim is bound only when a Pod needs it.
pub(crate) fn waits_for_consumer(claim: &PersistentVolumeClaim, state: &State) -> bool {
    let class = state.class(of_claim(claim));
    let mode = class.and_then(|class| class.volume_binding_mode.as_deref());
    mode == Some("WaitForFirstConsumer")
}
