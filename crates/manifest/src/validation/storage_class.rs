//! Kubernetes' rules for StorageClasses (`pkg/apis/storage/validation/validation.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::storage::v1::StorageClass;

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::found::Found;
use super::{metadata, update};

/// `maxProvisionerParameterSize`
const MAX_PARAMETER_BYTES: usize = 256 << 10;
/// `maxProvisionerParameterLen`
const MAX_PARAMETERS: usize = 512;

/// All problems of the class.
pub(crate) fn validate(class: &StorageClass) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate_cluster_wide(&class.metadata, names::dns_subdomain, &mut found);
    let root = FieldPath::default();
    let provisioner = root.field("provisioner");
    if class.provisioner.is_empty() {
        found.required(&provisioner, "");
    } else {
        let details = names::qualified_name(&class.provisioner.to_lowercase());
        found.invalid_for_each(&provisioner, &class.provisioner, details);
    }
    if let Some(parameters) = &class.parameters {
        self::parameters(parameters, &root.field("parameters"), &mut found);
    }
    let policy = class.reclaim_policy.as_deref().unwrap_or_default();
    if !policy.is_empty() {
        found.one_of(&root.field("reclaimPolicy"), policy, &["Delete", "Retain"]);
    }
    let mode = root.field("volumeBindingMode");
    match &class.volume_binding_mode {
        Some(own) => found.one_of(&mode, own, &["Immediate", "WaitForFirstConsumer"]),
        None => found.required(&mode, ""),
    }
    found.0
}

fn parameters(parameters: &BTreeMap<String, String>, path: &FieldPath, found: &mut Found) {
    if parameters.len() > MAX_PARAMETERS {
        return found.too_long(path, MAX_PARAMETERS);
    }
    if parameters.contains_key("") {
        found.invalid_inside(path, &path.key(""), "", vec!["field can not be empty.".to_owned()]);
    }
    let sizes = parameters
        .iter()
        .map(|(key, value)| key.len().saturating_add(value.len()));
    if sizes.fold(0, usize::saturating_add) > MAX_PARAMETER_BYTES {
        found.too_long(path, MAX_PARAMETER_BYTES);
    }
}

/// All problems of a change.
pub(crate) fn validate_update(new: &StorageClass, old: &StorageClass) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    let root = FieldPath::default();
    for (field, same) in [
        (
            "parameters",
            update::same_map(new.parameters.as_ref(), old.parameters.as_ref()),
        ),
        ("provisioner", new.provisioner == old.provisioner),
        ("reclaimPolicy", new.reclaim_policy == old.reclaim_policy),
    ] {
        if !same {
            found.forbidden(&root.field(field), format_args!("updates to {field} are forbidden."));
        }
    }
    if new.volume_binding_mode != old.volume_binding_mode {
        update::immutable(&new.volume_binding_mode, &root.field("volumeBindingMode"), &mut found);
    }
    found.0
}
