//! Waiting until deleted objects are gone.

use std::time::{Duration, Instant};

use microkube_base::causes::with_causes;
use microkube_store::{Key, ObjectVersion, Resource, Scope, Store, StoreError, Watch};

/// The pause after an error of a watch, because the error may recur immediately.
const ERROR_PAUSE: Duration = Duration::from_secs(1);

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
    use microkube_store::{Deletion, Object, Written};
    use serde_json::json;

    use super::super::node_store::resource;
    use super::super::operations::Objects;
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
        let objects = Objects::of(Store::clone(&store));
        let delete = |uid: Option<&str>| {
            let deletion = Deletion {
                uid: uid.map(str::to_owned),
                ..Deletion::default()
            };
            objects.delete(kind, &key, &deletion)
        };
        assert!(delete(Some("other")).is_err());
        assert!(!matches!(delete(Some(&uid)).unwrap(), Written::Removed(_)));
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
        assert_eq!(delete(None).unwrap_err().to_string(), "configmaps \"a\" not found");
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
