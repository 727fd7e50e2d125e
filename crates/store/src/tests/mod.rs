//! Tests of the store as a whole.

mod hostile_files;
mod kept_records;
mod lists;
mod model;
mod power_cuts;
mod processes;
mod records;
mod verbs;

use std::path::{Path, PathBuf};

use serde_json::json;
use tempfile::TempDir;

use crate::key::Key;
use crate::object::Object;
use crate::resource::Scope;
use crate::revisions;
use crate::store::Store;
use crate::test_types::config_maps;

/// A directory in memory if possible, because syncing takes no time there.
pub(crate) fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let directory = memory.is_dir().then(|| tempfile::tempdir_in(memory).ok()).flatten();
    directory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

pub(crate) fn open(directory: &Path) -> Store {
    Store::open(&directory.join("state"), &directory.join("run")).unwrap()
}

pub(crate) fn store() -> (TempDir, Store) {
    let directory = directory();
    let store = open(directory.path());
    (directory, store)
}

pub(crate) fn key(name: &str) -> Key {
    Key::namespaced("default", name)
}

/// The directory of a ConfigMap's files.
pub(crate) fn bucket_path(directory: &Path, name: &str) -> PathBuf {
    let namespace = directory.join("state/objects/configmaps/default");
    namespace.join(revisions::bucket(name))
}

fn data(object: &Object) -> &str {
    object.value()["data"]["key"].as_str().unwrap()
}

fn with_data(object: &Object, text: &str) -> Object {
    let mut value = object.clone().into_value();
    value["data"] = json!({ "key": text });
    Object::new(value).unwrap()
}

fn version(object: &Object) -> u64 {
    object.resource_version().unwrap().number()
}

/// Names and versions of all ConfigMaps. None may be damaged.
fn all(store: &Store) -> Vec<(String, u64)> {
    let list = store.list(&config_maps(), &Scope::All).unwrap();
    assert!(list.damaged.is_empty(), "{:?}", list.damaged);
    let items = list.items.iter();
    items
        .map(|object| (object.name().to_owned(), version(object)))
        .collect()
}
