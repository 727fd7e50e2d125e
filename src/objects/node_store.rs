//! Opens the node's store, and describes the kinds in the table to it.

use std::borrow::Cow;
use std::sync::Arc;

use microkube_manifest::kinds::Kind;
use microkube_store::{Generation, Key, Resource, Store, StoreError};

use super::pods::PodObjects;
use crate::state::Paths;

/// The type of Pods, whose objects are in their records.
pub const PODS: Resource = Resource {
    group: Cow::Borrowed(""),
    version: Cow::Borrowed("v1"),
    kind: Cow::Borrowed("Pod"),
    plural: Cow::Borrowed("pods"),
    namespaced: true,
    generation: Generation::OfSpec,
};

/// Opens the node's store, and creates it if it does not exist. Its lists and watches include the objects of all kinds,
/// also Pods.
///
/// # Errors
/// If the directories cannot be created, or the store is damaged or of a newer version.
pub fn open(paths: &Paths) -> Result<Store, StoreError> {
    let store = Store::open(&paths.objects(), &paths.objects_run())?;
    Ok(store.with_records(PODS, Arc::new(PodObjects::new(paths))))
}

/// The store's description of a kind.
#[must_use]
pub fn resource(kind: &'static Kind) -> Resource {
    Resource {
        group: Cow::Borrowed(kind.group),
        version: Cow::Borrowed(kind.version),
        kind: Cow::Borrowed(kind.kind),
        plural: Cow::Borrowed(kind.plural),
        namespaced: kind.namespaced,
        generation: match kind.has_generation {
            true => Generation::OfSpec,
            false => Generation::Absent,
        },
    }
}

/// The key of an object of this kind; the namespace matters only if the kind is in namespaces.
#[must_use]
pub fn key(kind: &Kind, namespace: &str, name: &str) -> Key {
    match kind.namespaced {
        true => Key::namespaced(namespace, name),
        false => Key::cluster(name),
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;
    use microkube_store::Object;
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_of_every_kind_but_pods_can_be_stored() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
        let store = open(&paths).unwrap();
        assert_eq!(resource(kinds::find("v1", "Pod").unwrap()), PODS);
        // Supervisors write Pods.
        for kind in kinds::all().iter().filter(|kind| kind.kind != "Pod") {
            let mut value = json!({ "apiVersion": kind.api_version(), "kind": kind.kind, "metadata": { "name": "a" } });
            if kind.namespaced {
                value["metadata"]["namespace"] = "default".into();
            }
            let created = store.create(&resource(kind), Object::new(value).unwrap()).unwrap();
            let found = store.get(&resource(kind), &key(kind, "default", "a")).unwrap();
            assert_eq!(found, created, "{}", kind.kind);
        }
    }
}
