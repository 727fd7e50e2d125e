//! The defaults of metadata.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use microkube_base::generated_name;

use super::fill::fill;

/// Default namespace and generated name of an object.
pub(crate) fn namespaced(metadata: &mut ObjectMeta) {
    fill(&mut metadata.namespace, "default");
    missing_name(metadata);
}

/// Generated name of an object outside of namespaces; removes a namespace.
pub(super) fn cluster_wide(metadata: &mut ObjectMeta) {
    metadata.namespace = None;
    missing_name(metadata);
}

fn missing_name(metadata: &mut ObjectMeta) {
    if metadata.name.as_deref().unwrap_or_default().is_empty()
        && let Some(prefix) = metadata.generate_name.as_deref().filter(|prefix| !prefix.is_empty())
    {
        metadata.name = Some(generated_name::generate(prefix));
    }
}
