//! The `resourceVersion` of Pods: numbers of the counter that all objects of the node share. A Pod itself is in its
//! records.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use microkube_store::{Generation, Key, Resource, Store, StoreError};

use crate::objects;
use crate::state::Paths;

const PODS: Resource = Resource {
    group: Cow::Borrowed(""),
    version: Cow::Borrowed("v1"),
    kind: Cow::Borrowed("Pod"),
    plural: Cow::Borrowed("pods"),
    namespaced: true,
    generation: Generation::OfSpec,
};

/// Opens the node's store when the first version is taken.
#[derive(Debug, Clone)]
pub struct PodVersions {
    paths: Paths,
    store: Arc<OnceLock<Store>>,
}

impl PodVersions {
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self {
            paths: paths.clone(),
            store: Arc::default(),
        }
    }

    /// Takes the next version for a change of this Pod. Blocks.
    ///
    /// # Errors
    /// If the store cannot be opened or written.
    pub fn next(&self, namespace: &str, name: &str) -> Result<String, StoreError> {
        let store = match self.store.get() {
            Some(store) => store,
            None => {
                let opened = objects::open(&self.paths)?;
                self.store.get_or_init(|| opened)
            }
        };
        let version = store.number_change(&PODS, &Key::namespaced(namespace, name))?;
        Ok(version.to_string())
    }
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds;

    use super::*;

    #[test]
    fn versions_come_from_the_counter_of_all_objects() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
        let versions = PodVersions::new(&paths);
        let first: u64 = versions.next("default", "web").unwrap().parse().unwrap();
        let second: u64 = PodVersions::new(&paths).next("shop", "db").unwrap().parse().unwrap();
        let third: u64 = versions.next("default", "web").unwrap().parse().unwrap();
        assert!(first < second && second < third, "{first} {second} {third}");
        assert_eq!(objects::resource(kinds::find("v1", "Pod").unwrap()), PODS);
    }
}
