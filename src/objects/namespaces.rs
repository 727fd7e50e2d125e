//! Creates namespaces together with the first object in them: a node has no administrator who creates them first. Also
//! creates the ServiceAccount `default` of each namespace, like Kubernetes' controller of service accounts
//! (`pkg/controller/serviceaccount`). As no such process runs here, the commands that need the account call it.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use microkube_manifest::kinds;
use microkube_store::{Deletion, Key, Object, Resource, Store, StoreError};
use serde_json::Value;

use super::node_store::resource;

/// The namespace of objects that do not specify one.
pub const DEFAULT_NAMESPACE: &str = "default";
/// The ServiceAccount of Pods that do not specify one.
pub const DEFAULT_ACCOUNT: &str = "default";

/// The store's description of Namespaces.
#[must_use]
pub fn namespace_resource() -> Resource {
    resource(kinds::Object::from(Namespace::default()).kind())
}

fn account_resource() -> Resource {
    resource(kinds::Object::from(ServiceAccount::default()).kind())
}

/// Whether a namespace is being deleted, so nothing may be created in it.
#[must_use]
pub fn is_ending(namespace: &Object) -> bool {
    let phase = namespace.value().pointer("/status/phase").and_then(Value::as_str);
    namespace.is_terminating() || phase == Some("Terminating")
}

/// Creates a namespace and its ServiceAccount, each if it does not exist.
///
/// # Errors
/// If the store cannot be read or written, or no namespace can have this name.
pub fn ensure_namespace(store: &Store, name: &str) -> Result<(), StoreError> {
    let namespaces = namespace_resource();
    if let Some(found) = store.find(&namespaces, &Key::cluster(name))? {
        return ensure_account(store, &found);
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
        // The other process also creates the ServiceAccount.
        Err(error) if error.is_already_exists() => Ok(()),
        created => ensure_account(store, &created?),
    }
}

/// Creates the ServiceAccount of a namespace if it does not exist, unless the namespace is being deleted.
///
/// # Errors
/// If the store cannot be read or written.
pub fn ensure_account(store: &Store, namespace: &Object) -> Result<(), StoreError> {
    let accounts = account_resource();
    let key = Key::namespaced(namespace.name(), DEFAULT_ACCOUNT);
    // A damaged account exists. Only its readers report it.
    if is_ending(namespace) || !matches!(store.find(&accounts, &key), Ok(None)) {
        return Ok(());
    }
    let metadata = ObjectMeta {
        name: Some(DEFAULT_ACCOUNT.to_owned()),
        namespace: Some(namespace.name().to_owned()),
        ..ObjectMeta::default()
    };
    let account = kinds::Object::from(ServiceAccount {
        metadata,
        ..ServiceAccount::default()
    });
    let created = match store.create(&accounts, Object::new(account.to_value())?) {
        Err(error) if error.is_already_exists() => return Ok(()),
        created => created?,
    };
    // If the deletion of the namespace has begun meanwhile, it may have missed the account.
    let now = store.find(&namespace_resource(), &Key::cluster(namespace.name()))?;
    match now.is_none_or(|now| is_ending(&now)) {
        true => remove_account(store, namespace.name(), Some(created.uid().to_owned())),
        false => Ok(()),
    }
}

/// Deletes the ServiceAccount of a namespace that is being deleted; `uid` limits this to one instance.
///
/// # Errors
/// If the store cannot be read or written.
pub fn remove_account(store: &Store, namespace: &str, uid: Option<String>) -> Result<(), StoreError> {
    let deletion = Deletion {
        uid,
        ..Deletion::default()
    };
    let key = Key::namespaced(namespace, DEFAULT_ACCOUNT);
    match store.delete(&account_resource(), &key, &deletion) {
        // It does not exist, or another process was faster.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        removed => removed.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::namespace_deletion::{begin_namespace_deletion, end_namespace};
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

    fn account(store: &Store, namespace: &str) -> Option<Object> {
        let key = Key::namespaced(namespace, DEFAULT_ACCOUNT);
        store.find(&account_resource(), &key).unwrap()
    }

    #[test]
    fn a_namespace_has_the_service_account_default_which_comes_back() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        let first = account(&store, "shop").unwrap();
        assert!(!first.uid().is_empty());
        ensure_namespace(&store, "shop").unwrap();
        assert_eq!(account(&store, "shop"), Some(first.clone()));
        assert_eq!(account(&store, "other"), None);
        remove_account(&store, "shop", Some("another".to_owned())).unwrap();
        assert_eq!(account(&store, "shop"), Some(first.clone()));
        remove_account(&store, "shop", None).unwrap();
        assert_eq!(account(&store, "shop"), None);
        remove_account(&store, "shop", None).unwrap();
        ensure_namespace(&store, "shop").unwrap();
        assert_ne!(account(&store, "shop").unwrap().uid(), first.uid());
    }

    #[test]
    fn a_namespace_that_ends_or_is_gone_gets_no_service_account() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        let before = store.get(&namespace_resource(), &Key::cluster("shop")).unwrap();
        let ending = begin_namespace_deletion(&store, "shop").unwrap();
        remove_account(&store, "shop", None).unwrap();
        ensure_namespace(&store, "shop").unwrap();
        // This process has read the namespace before its deletion began.
        ensure_account(&store, &before).unwrap();
        assert_eq!(account(&store, "shop"), None);
        end_namespace(&store, &ending).unwrap();
        ensure_account(&store, &before).unwrap();
        assert_eq!(account(&store, "shop"), None);
    }

    #[test]
    fn a_dry_run_creates_neither() {
        let store = TestStore::new();
        ensure_namespace(&store.dry_run(), "shop").unwrap();
        assert_eq!(account(&store, "shop"), None);
    }
}
