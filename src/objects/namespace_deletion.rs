//! Deletes namespaces, after all objects in them.

use microkube_manifest::kinds;
use microkube_store::{Deletion, Key, Object, Resource, Scope, Store, StoreError, Written};
use serde_json::{Value, json};

use super::error::ObjectError;
use super::namespaces::{DEFAULT_NAMESPACE, namespace_resource};
use super::node_store::{key, resource};

/// Namespaces that cannot be deleted (`plugin/pkg/admission/namespace/lifecycle`).
const IMMORTAL: [&str; 3] = [DEFAULT_NAMESPACE, "kube-public", "kube-system"];

/// Begins the deletion of a namespace, which is terminating until [`end_namespace`] removes it. Returns the namespace.
///
/// # Errors
/// [`ObjectError::Forbidden`] if the namespace cannot be deleted. Also fails if it does not exist.
pub fn begin_namespace_deletion(store: &Store, name: &str) -> Result<Object, ObjectError> {
    let namespaces = namespace_resource();
    if IMMORTAL.contains(&name) {
        return Err(ObjectError::Forbidden {
            resource: namespaces.qualified_plural(),
            name: name.to_owned(),
            reason: "this namespace may not be deleted".to_owned(),
        });
    }
    // With a grace period, the store only marks the namespace.
    let deletion = Deletion {
        grace_period_seconds: 1,
        ..Deletion::default()
    };
    let key = Key::cluster(name);
    store.delete(&namespaces, &key, &deletion)?;
    let marked = store.modify::<StoreError>(&namespaces, &key, |current| {
        let mut value = current.value().clone();
        if value.pointer("/status/phase").and_then(Value::as_str) == Some("Terminating") {
            return Ok(None);
        }
        value["status"] = json!({ "phase": "Terminating" });
        Ok(Some(Object::new(value)?))
    })?;
    Ok(marked.into_object())
}

/// Deletes all objects in a namespace, except Pods, whose supervisors delete them. Returns the objects that remain
/// because of finalizers.
///
/// # Errors
/// If the store cannot be read or written.
pub fn delete_content(store: &Store, namespace: &str) -> Result<Vec<(Resource, Key, String)>, StoreError> {
    let mut kept = Vec::new();
    let in_namespaces = kinds::all().iter().filter(|kind| kind.namespaced && kind.kind != "Pod");
    for kind in in_namespaces {
        let list = store.list(&resource(kind), &Scope::Namespace(namespace.to_owned()))?;
        if let Some(error) = list.damaged.into_iter().next() {
            return Err(error);
        }
        for object in list.items {
            let key = key(kind, namespace, object.name());
            let deletion = Deletion {
                uid: Some(object.uid().to_owned()),
                ..Deletion::default()
            };
            match store.delete(&resource(kind), &key, &deletion) {
                Ok(Written::Removed(_)) => {}
                Ok(_) => kept.push((resource(kind), key, object.uid().to_owned())),
                // Another process was faster.
                Err(error) if error.is_not_found() || error.is_conflict() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(kept)
}

/// Whether a namespace has no objects other than Pods.
///
/// # Errors
/// If the store cannot be read.
pub fn is_empty(store: &Store, namespace: &str) -> Result<bool, StoreError> {
    let in_namespaces = kinds::all().iter().filter(|kind| kind.namespaced && kind.kind != "Pod");
    for kind in in_namespaces {
        let list = store.list(&resource(kind), &Scope::Namespace(namespace.to_owned()))?;
        if !list.items.is_empty() || !list.damaged.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes a namespace whose deletion has begun, unless its `metadata` has finalizers.
///
/// # Errors
/// If the store cannot be read or written.
pub fn end_namespace(store: &Store, namespace: &Object) -> Result<(), StoreError> {
    let deletion = Deletion {
        uid: Some(namespace.uid().to_owned()),
        ..Deletion::default()
    };
    match store.delete(&namespace_resource(), &Key::cluster(namespace.name()), &deletion) {
        // Another process was faster.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        removed => removed.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds::Kind;

    use super::super::namespaces::ensure_namespace;
    use super::super::test_store::{TestStore, config_map};
    use super::*;

    fn config_maps() -> &'static Kind {
        kinds::named("configmaps").unwrap()
    }

    #[test]
    fn a_deleted_namespace_is_terminating_until_it_is_empty() {
        let store = TestStore::new();
        ensure_namespace(&store, "shop").unwrap();
        store.add(config_maps(), config_map("shop", "a"));
        let mut kept = config_map("shop", "kept");
        kept["metadata"]["finalizers"] = json!(["example.com/wait"]);
        store.add(config_maps(), kept);
        store.add(config_maps(), config_map("other", "a"));

        let namespace = begin_namespace_deletion(&store, "shop").unwrap();
        assert!(namespace.is_terminating());
        assert_eq!(namespace.value()["status"]["phase"], "Terminating");
        // A second deletion continues the first.
        assert_eq!(begin_namespace_deletion(&store, "shop").unwrap(), namespace);

        let kept = delete_content(&store, "shop").unwrap();
        let names: Vec<&str> = kept.iter().map(|(_, key, _)| key.name.as_str()).collect();
        assert_eq!(names, ["kept"]);
        assert!(!is_empty(&store, "shop").unwrap());
        let config_maps = resource(config_maps());
        store
            .modify::<StoreError>(&config_maps, &Key::namespaced("shop", "kept"), |current| {
                let mut value = current.value().clone();
                value["metadata"]["finalizers"] = json!([]);
                Ok(Some(Object::new(value)?))
            })
            .unwrap();
        assert!(is_empty(&store, "shop").unwrap());
        end_namespace(&store, &namespace).unwrap();
        end_namespace(&store, &namespace).unwrap();
        assert!(
            store
                .find(&namespace_resource(), &Key::cluster("shop"))
                .unwrap()
                .is_none()
        );
        assert!(!is_empty(&store, "other").unwrap());
    }

    #[test]
    fn some_namespaces_cannot_be_deleted() {
        let store = TestStore::new();
        ensure_namespace(&store, "default").unwrap();
        assert_eq!(
            begin_namespace_deletion(&store, "default").unwrap_err().to_string(),
            "namespaces \"default\" is forbidden: this namespace may not be deleted"
        );
        assert_eq!(
            begin_namespace_deletion(&store, "none").unwrap_err().to_string(),
            "namespaces \"none\" not found"
        );
    }
}
