//! A store in a temporary directory, for tests of operations and verbs.

use std::ops::Deref;

use microkube_manifest::kinds::Kind;
use microkube_store::{Object, Store};
use serde_json::{Value, json};

use super::node_store::{open, resource};
use crate::state::Paths;

/// The store. Its directories are removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TestStore {
    store: Store,
    pub(crate) paths: Paths,
    _directory: tempfile::TempDir,
}

impl Deref for TestStore {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl TestStore {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
        paths.create().unwrap();
        Self {
            store: open(&paths).unwrap(),
            paths,
            _directory: directory,
        }
    }

    /// Adds an object without changes. Returns the stored object.
    pub(crate) fn add(&self, kind: &'static Kind, value: Value) -> Object {
        self.store.create(&resource(kind), Object::new(value).unwrap()).unwrap()
    }
}

/// A ConfigMap with one value.
pub(crate) fn config_map(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": namespace },
        "data": { "key": "value" },
    })
}
