//! The StorageClass `standard`, whose volumes are disks on this node. It is the default class, so claims work without an
//! administrator. It exists from the beginning; a user who deletes it does not get it again.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use microkube_base::private_directory;
use microkube_claims::PROVISIONER;
use microkube_manifest::kinds;
use microkube_store::{Object, Store, StoreError};

use super::error::ObjectError;
use super::node_store::resource;
use crate::state::Paths;

const NAME: &str = "standard";
const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";

/// The file that exists once the class was created.
fn mark(paths: &Paths) -> PathBuf {
    paths.volumes().join("has-standard-class")
}

/// Creates the class, unless it was created before.
///
/// # Errors
/// If the store or the mark cannot be written.
pub fn ensure_standard_class(paths: &Paths, store: &Store) -> Result<(), ObjectError> {
    let mark = mark(paths);
    if mark.exists() {
        return Ok(());
    }
    let class = kinds::Object::from(standard());
    match store.create(
        &resource(class.kind()),
        Object::new(class.to_value()).map_err(StoreError::from)?,
    ) {
        Err(error) if error.is_already_exists() => {}
        created => drop(created?),
    }
    let note = || -> io::Result<()> {
        private_directory::create(&paths.volumes())?;
        File::create(&mark)?.sync_all()
    };
    note().map_err(|source| ObjectError::Mark { path: mark, source })
}

fn standard() -> StorageClass {
    StorageClass {
        metadata: ObjectMeta {
            name: Some(NAME.to_owned()),
            annotations: Some([(IS_DEFAULT.to_owned(), "true".to_owned())].into()),
            ..ObjectMeta::default()
        },
        provisioner: PROVISIONER.to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("WaitForFirstConsumer".to_owned()),
        allow_volume_expansion: Some(true),
        ..StorageClass::default()
    }
}

#[cfg(test)]
mod tests {
    use microkube_store::{Deletion, Key};

    use super::super::test_store::TestStore;
    use super::*;

    #[test]
    fn the_standard_class_exists_until_a_user_deletes_it() {
        let store = TestStore::new();
        let classes = resource(kinds::named("storageclasses").unwrap());
        let key = Key::cluster(NAME);
        ensure_standard_class(&store.paths, &store).unwrap();
        ensure_standard_class(&store.paths, &store).unwrap();
        let created = store.get(&classes, &key).unwrap();
        assert_eq!(created.value()["provisioner"], "microkube.io/disk-image");
        assert_eq!(created.value()["metadata"]["annotations"][IS_DEFAULT], "true");
        store.delete(&classes, &key, &Deletion::default()).unwrap();
        ensure_standard_class(&store.paths, &store).unwrap();
        assert_eq!(store.find(&classes, &key).unwrap(), None);
    }

    #[test]
    fn a_class_that_a_user_has_created_first_stays() {
        let store = TestStore::new();
        let mut own = kinds::Object::from(standard()).to_value();
        own["provisioner"] = "example.com/own".into();
        let kind = kinds::named("storageclasses").unwrap();
        store.add(kind, own);
        ensure_standard_class(&store.paths, &store).unwrap();
        let found = store.get(&resource(kind), &Key::cluster(NAME)).unwrap();
        assert_eq!(found.value()["provisioner"], "example.com/own");
    }
}
