//! What Kubernetes' admission plugins do with claims and volumes (`plugin/pkg/admission/storage`), by the rules of
//! `crates/claims`.

use k8s_openapi::api::storage::v1::StorageClass;
use microkube_claims::{admit_claim, admit_volume, check_expansion};
use microkube_manifest::kinds::{self, Object as Typed};
use microkube_store::{Scope, Store, StoreError};
use serde::Deserialize as _;

use super::error::ObjectError;
use super::node_store::resource;

/// Completes a new claim or volume. Other objects stay as they are.
///
/// # Errors
/// If the object is forbidden, or the classes cannot be read.
pub(super) fn admit(store: &Store, object: &mut Typed) -> Result<(), ObjectError> {
    let admitted = match object {
        Typed::PersistentVolumeClaim(claim) => {
            admit_claim(claim, &classes(store)?);
            Ok(())
        }
        Typed::PersistentVolume(volume) => admit_volume(volume),
        _ => Ok(()),
    };
    admitted.map_err(|reason| forbidden(object, reason))
}

/// Checks the change of a claim.
///
/// # Errors
/// If the change is forbidden, or the classes cannot be read.
pub(super) fn check_change(store: &Store, new: &Typed, old: &Typed) -> Result<(), ObjectError> {
    let (Typed::PersistentVolumeClaim(next), Typed::PersistentVolumeClaim(previous)) = (new, old) else {
        return Ok(());
    };
    check_expansion(next, previous, &classes(store)?).map_err(|reason| forbidden(new, reason))
}

fn forbidden(object: &Typed, reason: &str) -> ObjectError {
    ObjectError::Forbidden {
        resource: object.kind().qualified_plural(),
        name: object.metadata().name.clone().unwrap_or_default(),
        reason: reason.to_owned(),
    }
}

/// The classes that can be read. A damaged class counts as missing.
fn classes(store: &Store) -> Result<Vec<StorageClass>, StoreError> {
    let classes = resource(kinds::Object::from(StorageClass::default()).kind());
    let list = store.list(&classes, &Scope::All)?;
    let classes = list.items.iter();
    Ok(classes
        .filter_map(|class| StorageClass::deserialize(class.value()).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use microkube_manifest::kinds::Kind;
    use serde_json::{Value, json};

    use super::super::operations::{Objects, Part};
    use super::super::standard_class::ensure_standard_class;
    use super::super::test_store::TestStore;
    use super::*;

    fn claims() -> &'static Kind {
        kinds::named("pvc").unwrap()
    }

    fn claim(size: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data", "namespace": "default" },
            "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": size } } },
        })
    }

    #[test]
    fn a_new_claim_gets_the_default_class_and_stays_while_it_is_used() {
        let store = TestStore::new();
        ensure_standard_class(&store.paths, &store).unwrap();
        let created = Objects::of(Store::clone(&store))
            .create(claims(), &claim("1Gi"))
            .unwrap();
        assert_eq!(created.value()["spec"]["storageClassName"], "standard");
        assert_eq!(
            created.value()["metadata"]["finalizers"],
            json!(["kubernetes.io/pvc-protection"])
        );
    }

    #[test]
    fn a_claim_can_grow_if_its_class_allows_it() {
        let store = TestStore::new();
        ensure_standard_class(&store.paths, &store).unwrap();
        let objects = Objects::of(Store::clone(&store));
        objects.create(claims(), &claim("1Gi")).unwrap();
        let key = super::super::node_store::key(claims(), "default", "data");
        let grow = || {
            objects.change(claims(), &key, Part::Main, |current| {
                let mut new = current.clone();
                new["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
                Ok(Some(new))
            })
        };
        let bind = |current: &Value| {
            let mut new = current.clone();
            new["status"] = json!({ "phase": "Bound", "capacity": { "storage": "1Gi" } });
            Ok(Some(new))
        };
        objects.change(claims(), &key, Part::Status, bind).unwrap();
        let class = kinds::named("storageclasses").unwrap();
        let allow = |is_allowed: bool| {
            let key = super::super::node_store::key(class, "", "standard");
            let change = |current: &Value| {
                let mut new = current.clone();
                new["allowVolumeExpansion"] = is_allowed.into();
                Ok(Some(new))
            };
            objects.change(class, &key, Part::Main, change).unwrap();
        };
        allow(false);
        let error = grow().unwrap_err();
        assert_eq!(error.reason(), Some("Forbidden"), "{error}");
        allow(true);
        grow().unwrap();
    }

    #[test]
    fn volumes_are_not_recycled() {
        let store = TestStore::new();
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "pv" },
            "spec": {
                "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "hostPath": { "path": "/data" },
                "persistentVolumeReclaimPolicy": "Recycle",
            },
        });
        let error = Objects::of(Store::clone(&store))
            .create(kinds::named("pv").unwrap(), &volume)
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("persistentvolumes \"pv\" is forbidden: spec.persistentVolumeReclaimPolicy"),
            "{error}"
        );
    }
}
