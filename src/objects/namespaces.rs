//! Creates namespaces together with the first object in them: a node has no administrator who creates them first.

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use microkube_manifest::kinds;
use microkube_store::{Key, Object, Resource, Store, StoreError};

use super::node_store::resource;

/// The namespace of objects that do not specify one.
pub const DEFAULT_NAMESPACE: &str = "default";

/// The store's description of Namespaces.
#[must_use]
pub fn namespace_resource() -> Resource {
    resource(kinds::Object::from(Namespace::default()).kind())
}

/// Creates a namespace if it does not exist.
///
/// # Errors
/// If the store cannot be read or written, or no namespace can have this name.
pub fn ensure_namespace(store: &Store, name: &str) -> Result<(), StoreError> {
    let namespaces = namespace_resource();
    if store.find(&namespaces, &Key::cluster(name))?.is_some() {
        return Ok(());
    }
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        ..ObjectMeta::default()
    };
    let mut object = kinds::Object::from(Namespace {
        metadata,
        ..Namespace::default()
    });
    object.set_defaults();
    object.prepare_for_create();
    match store.create(&namespaces, Object::new(object.to_value())?) {
        Err(error) if error.is_already_exists() => Ok(()),
        created => created.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::test_store::TestStore;
    use super::*;

    #[test]
    fn a_needed_namespace_is_created_once_as_kubernetes_creates_it() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        let created = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
        ensure_namespace(&store, "shop").unwrap();
        assert_eq!(
            store.get(&namespace_resource(), &Key::cluster("shop")).unwrap(),
            created
        );
        let value = created.value();
        assert_eq!(
            value["metadata"]["labels"],
            json!({ "kubernetes.io/metadata.name": "shop" })
        );
        assert_eq!(value["spec"], json!({ "finalizers": ["kubernetes"] }));
        assert_eq!(value["status"], json!({ "phase": "Active" }));
        assert!(ensure_namespace(&store, "a/b").is_err());
    }
}
