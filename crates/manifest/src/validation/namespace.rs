//! Kubernetes' rules for Namespaces.

use k8s_openapi::api::core::v1::Namespace;

use super::super::error::{FieldPath, Problem};
use super::super::names;
use super::found::Found;
use super::{metadata, update};

/// All problems of the Namespace.
pub(crate) fn validate(namespace: &Namespace) -> Vec<Problem> {
    let mut found = Found::default();
    metadata::validate_cluster_wide(&namespace.metadata, names::dns_label, &mut found);
    let finalizers = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    let path = FieldPath::default().field("spec").field("finalizers");
    for (index, finalizer) in finalizers.enumerate() {
        // Kubernetes names the list, not the element.
        let mut own = Found::default();
        own.invalid_for_each(&path, finalizer, names::qualified_name(finalizer));
        metadata::standard_finalizer(finalizer, &path, &mut own);
        found.extend_inside(own, &path, &path.index(index));
    }
    found.0
}

/// All problems of a change.
pub(crate) fn validate_update(new: &Namespace, old: &Namespace) -> Vec<Problem> {
    let mut found = Found::default();
    update::metadata(&new.metadata, &old.metadata, &mut found);
    found.0
}
