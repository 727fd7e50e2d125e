//! Kubernetes' rules for ConfigMaps.

use k8s_openapi::api::core::v1::ConfigMap;

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::found::Found;
use super::{metadata, update};

/// `MaxSecretSize`: the size of all values of a ConfigMap or a Secret.
pub(crate) const MAX_DATA_BYTES: usize = 1 << 20;

/// All problems of the ConfigMap.
pub(crate) fn validate(config_map: &ConfigMap) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate(&config_map.metadata, &mut found);
    let root = FieldPath::default();
    let mut bytes = 0_usize;
    for (key, value) in config_map.data.iter().flatten() {
        let path = root.field("data").key(key);
        found.invalid_for_each(&path, key, names::config_map_key(key));
        if config_map
            .binary_data
            .as_ref()
            .is_some_and(|binary| binary.contains_key(key))
        {
            found.invalid(&path, key.as_str(), "duplicate of key present in binaryData");
        }
        bytes = bytes.saturating_add(value.len());
    }
    for (key, value) in config_map.binary_data.iter().flatten() {
        let path = root.field("binaryData").key(key);
        found.invalid_for_each(&path, key, names::config_map_key(key));
        bytes = bytes.saturating_add(value.0.len());
    }
    if bytes > MAX_DATA_BYTES {
        // Kubernetes writes `[]` for the object as a whole.
        found.too_long(&root.key(""), MAX_DATA_BYTES);
    }
    found.0
}

/// All problems of a change.
pub(crate) fn validate_update(new: &ConfigMap, old: &ConfigMap) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    if old.immutable == Some(true) {
        let same = [
            ("immutable", new.immutable == Some(true)),
            ("data", update::same_map(new.data.as_ref(), old.data.as_ref())),
            (
                "binaryData",
                update::same_map(new.binary_data.as_ref(), old.binary_data.as_ref()),
            ),
        ];
        update::immutable_data(&same, &mut found);
    }
    found.0
}
