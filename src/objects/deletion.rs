//! Deleting objects other than Pods, and waiting until they are gone.

use std::time::{Duration, Instant};

use microkube_base::causes::with_causes;
use microkube_manifest::kinds::Kind;
use microkube_store::{Deletion, Key, ObjectVersion, Resource, Scope, Store, StoreError, Watch, Written};

use super::node_store::resource;

/// The pause after an error of a watch, which may occur again immediately.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

/// An object cannot be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeletionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("namespaces {name:?} is forbidden: this namespace may not be deleted")]
    Forbidden { name: String },
}

/// Deletes an object; with `uid`, only if it has this UID. Returns whether it is gone: an object with finalizers stays.
///
/// # Errors
/// If it does not exist, has another UID, or cannot be written.
pub fn delete(store: &Store, kind: &'static Kind, key: &Key, uid: Option<&str>) -> Result<bool, DeletionError> {
    let deletion = Deletion {
        uid: uid.map(str::to_owned),
        ..Deletion::default()
    };
    let written = store.delete(&resource(kind), key, &deletion)?;
    Ok(matches!(written, Written::Removed(_)))
}

/// Waits until the object with this UID is gone. Returns `false` if it still exists at the deadline.
///
/// # Errors
/// If the object cannot be read, or its type cannot be listed or watched.
pub fn wait_until_gone(
    store: &Store,
    resource: &Resource,
    key: &Key,
    uid: &str,
    deadline: Option<Instant>,
) -> Result<bool, StoreError> {
    let scope = match &key.namespace {
        Some(namespace) => Scope::Namespace(namespace.clone()),
        None => Scope::All,
    };
    let watch = store.watch_versions(&store.list(resource, &scope)?)?;
    wait_with(watch, store, resource, key, uid, deadline)
}

fn wait_with(
    mut watch: Watch<ObjectVersion>,
    store: &Store,
    resource: &Resource,
    key: &Key,
    uid: &str,
    deadline: Option<Instant>,
) -> Result<bool, StoreError> {
    loop {
        if store.find(resource, key)?.is_none_or(|object| object.uid() != uid) {
            return Ok(true);
        }
        match watch.next_until(deadline) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            // The error may concern another object.
            Err(error) => {
                tracing::debug!("cannot follow {}: {}", resource.qualified_plural(), with_causes(&error));
                let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
                std::thread::sleep(left.unwrap_or(ERROR_PAUSE).min(ERROR_PAUSE));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use microkube_manifest::kinds;
    use microkube_store::Object;
    use serde_json::json;

    use super::super::test_store::{TestStore, config_map};
    use super::*;

    #[test]
    fn finalizers_keep_an_object_until_they_are_removed() {
        let store = TestStore::new();
        let kind = kinds::named("configmaps").unwrap();
        let mut value = config_map("default", "a");
        value["metadata"]["finalizers"] = json!(["example.com/wait"]);
        let uid = store.add(kind, value).uid().to_owned();
        let key = Key::namespaced("default", "a");
        assert!(delete(&store, kind, &key, Some("other")).is_err());
        assert!(!delete(&store, kind, &key, Some(&uid)).unwrap());
        let now = Some(Instant::now());
        assert!(!wait_until_gone(&store, &resource(kind), &key, &uid, now).unwrap());
        let waiting = std::thread::spawn({
            let (store, key, uid) = (Store::clone(&store), key.clone(), uid.clone());
            move || wait_until_gone(&store, &resource(kind), &key, &uid, None).unwrap()
        });
        store
            .modify::<StoreError>(&resource(kind), &key, |current| {
                let mut value = current.value().clone();
                value["metadata"]["finalizers"] = json!([]);
                Ok(Some(Object::new(value)?))
            })
            .unwrap();
        assert!(waiting.join().unwrap());
        assert_eq!(
            delete(&store, kind, &key, None).unwrap_err().to_string(),
            "configmaps \"a\" not found"
        );
    }

    /// Files below a directory whose names begin with `prefix`.
    fn files(directory: &Path, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                found.extend(files(&path, prefix));
            } else if path.file_name().unwrap().to_str().unwrap().starts_with(prefix) {
                found.push(path);
            }
        }
        found
    }

    #[test]
    fn another_damaged_object_does_not_end_the_waiting() {
        let store = TestStore::new();
        let kind = kinds::named("configmaps").unwrap();
        let mut value = config_map("default", "kept");
        value["metadata"]["finalizers"] = json!(["example.com/wait"]);
        let uid = store.add(kind, value).uid().to_owned();
        let resource = resource(kind);
        let list = store.list(&resource, &Scope::Namespace("default".to_owned())).unwrap();
        let watch = || store.watch_versions(&list).unwrap();
        let mut failing = watch();
        let waiting = watch();
        store.add(kind, config_map("default", "damaged"));
        for file in files(&store.paths.objects(), "damaged%") {
            std::fs::write(file, "torn").unwrap();
        }
        let now = Some(Instant::now());
        assert!(failing.next_until(now).is_err());
        let key = Key::namespaced("default", "kept");
        assert!(!wait_with(waiting, &store, &resource, &key, &uid, now).unwrap());
    }
}
