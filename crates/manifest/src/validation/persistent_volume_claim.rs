//! Kubernetes' rules for PersistentVolumeClaims.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimSpec};
use k8s_openapi::apimachinery::pkg::api::resource;

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::super::quantity::Quantity;
use super::found::Found;
use super::persistent_volume::{access_modes, class_name, positive, volume_mode};
use super::{metadata, scheduling, update};

/// `BetaStorageClassAnnotation`
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// All problems of the claim.
pub(crate) fn validate(claim: &PersistentVolumeClaim) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate(&claim.metadata, &mut found);
    let none = PersistentVolumeClaimSpec::default();
    let spec = claim.spec.as_ref().unwrap_or(&none);
    self::spec(spec, &FieldPath::default().field("spec"), &mut found);
    found.0
}

/// `ValidatePersistentVolumeClaimSpec`
pub(super) fn spec(spec: &PersistentVolumeClaimSpec, path: &FieldPath, found: &mut Found) {
    let detail = "at least 1 access mode is required";
    access_modes(spec.access_modes.as_deref(), detail, &path.field("accessModes"), found);
    scheduling::label_selector(spec.selector.as_ref(), &path.field("selector"), found);
    let storage = path.field("resources").key("storage");
    match requests(spec).and_then(|requests| requests.get("storage")) {
        Some(amount) => {
            // Kubernetes' path leaves out `requests`.
            let place = path.field("resources").field("requests").key("storage");
            let mut own = Found::default();
            positive(&amount.0, &storage, &mut own);
            found.extend_inside(own, &storage, &place);
        }
        None => found.required(&storage, ""),
    }
    class_name(
        spec.storage_class_name.as_deref(),
        &path.field("storageClassName"),
        found,
    );
    volume_mode(spec.volume_mode.as_deref(), &path.field("volumeMode"), found);
    let class = spec.volume_attributes_class_name.as_deref();
    class_name(class, &path.field("volumeAttributesClassName"), found);
    data_sources(spec, path, found);
}

fn data_sources(spec: &PersistentVolumeClaimSpec, path: &FieldPath, found: &mut Found) {
    let mut check = |field: &str, group: Option<&str>, kind: &str, name: &str| {
        let path = path.field(field);
        if name.is_empty() {
            found.required(&path.field("name"), "");
        }
        if kind.is_empty() {
            found.required(&path.field("kind"), "");
        }
        match group.unwrap_or_default() {
            "" if kind == "PersistentVolumeClaim" => {}
            "" => {
                let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
                found.invalid(&path, kind, detail);
            }
            group => found.invalid_for_each(&path.field("apiGroup"), group, names::dns_subdomain(group)),
        }
    };
    if let Some(source) = &spec.data_source {
        check("dataSource", source.api_group.as_deref(), &source.kind, &source.name);
    }
    let Some(reference) = &spec.data_source_ref else { return };
    let group = reference.api_group.as_deref();
    check("dataSourceRef", group, &reference.kind, &reference.name);
    let namespace = reference.namespace.as_deref().unwrap_or_default();
    let Some(source) = &spec.data_source else { return };
    let is_same =
        source.api_group == reference.api_group && source.kind == reference.kind && source.name == reference.name;
    let detail = if !namespace.is_empty() {
        "may not be specified when dataSourceRef.namespace is specified"
    } else if is_same {
        return;
    } else {
        "must match dataSourceRef"
    };
    let shown = path.field("dataSource").to_string();
    found.invalid_inside(path, &path.field("dataSource"), &shown, vec![detail.to_owned()]);
}

fn requests(spec: &PersistentVolumeClaimSpec) -> Option<&BTreeMap<String, resource::Quantity>> {
    spec.resources.as_ref()?.requests.as_ref()
}

/// The amount of storage, zero if there is none.
fn storage(amounts: Option<&BTreeMap<String, resource::Quantity>>) -> Quantity {
    let amount = amounts.and_then(|amounts| amounts.get("storage"));
    amount.and_then(|amount| amount.0.parse().ok()).unwrap_or_default()
}

/// All problems of a change.
pub(crate) fn validate_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    let root = FieldPath::default();
    let class = |claim: &PersistentVolumeClaim| {
        let annotations = claim.metadata.annotations.as_ref();
        annotations
            .and_then(|annotations| annotations.get(CLASS_ANNOTATION))
            .cloned()
    };
    let (new_class, old_class) = (class(new), class(old));
    let is_bound = new.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let capacity = old.status.as_ref().and_then(|status| status.capacity.as_ref());
    let (new, old) = (
        new.spec.clone().unwrap_or_default(),
        old.spec.clone().unwrap_or_default(),
    );
    // Make the fields that may change equal before the comparison.
    let (mut comparable, mut before) = (new.clone(), old.clone());
    if old.volume_name.as_deref().unwrap_or_default().is_empty() {
        before.volume_name.clone_from(&new.volume_name);
    }
    let path = root.field("metadata").field("annotations").field(CLASS_ANNOTATION);
    let old_text = old_class.clone().unwrap_or_default();
    update::immutable_text(&new_class.unwrap_or_default(), &old_text, &path, &mut found);
    if old.storage_class_name.is_none() && (old_class.is_none() || new.storage_class_name == old_class) {
        before.storage_class_name.clone_from(&new.storage_class_name);
    }
    if is_bound {
        if let Some(requests) = comparable
            .resources
            .as_mut()
            .and_then(|resources| resources.requests.as_mut())
        {
            match self::requests(&old).and_then(|requests| requests.get("storage")) {
                Some(amount) => requests.insert("storage".to_owned(), amount.clone()),
                None => requests.remove("storage"),
            };
        }
        if comparable.volume_attributes_class_name.is_some() {
            comparable
                .volume_attributes_class_name
                .clone_from(&old.volume_attributes_class_name);
        }
    }
    if !update::same(&comparable, &before) {
        let detail =
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        found.forbidden(&root.field("spec"), detail);
    }
    let (size, old_size) = (storage(self::requests(&new)), storage(self::requests(&old)));
    if size < old_size && size <= storage(capacity) {
        let path = root.field("spec").field("resources").field("requests").field("storage");
        found.forbidden(&path, "field can not be less than status.capacity");
    }
    if new.volume_mode != old.volume_mode {
        update::immutable(&new.volume_mode, &root.field("volumeMode"), &mut found);
    }
    let path = root.field("spec").field("volumeAttributesClassName");
    match (
        &old.volume_attributes_class_name,
        new.volume_attributes_class_name.as_deref(),
    ) {
        (Some(_), None) => found.forbidden(&path, "update from non-nil value to nil is forbidden"),
        (Some(_), Some("")) => found.forbidden(&path, "update from non-nil value to an empty string is forbidden"),
        _ => {}
    }
    found.0
}
