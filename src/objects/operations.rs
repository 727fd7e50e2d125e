//! Creates, reads, changes and deletes objects of any kind, by the API server's rules: a new object is decoded,
//! defaulted and validated; a change is also validated against the stored object. As on the API server, a patch that
//! conflicts with another writer is applied again to the newer object.
//!
//! Supervisors change Pods instead (`pod::operations::update`).

use microkube_base::causes::with_causes;
use microkube_manifest::kinds::{Kind, Object as Typed};
use microkube_store::{Conflict, Deletion, Key, Object, Store, StoreError, Written};
use serde_json::Value;

use super::claim_admission;
use super::error::ObjectError;
use super::namespaces::{self, DEFAULT_ACCOUNT, DEFAULT_NAMESPACE};
use super::node_store::{self, key, resource};
use super::patch::Patch;
use super::standard_class;
use crate::state::Paths;

/// The part of an object that a change affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Everything but the status.
    Main,
    /// `metadata` and `status`: the subresource `status`.
    Status,
}

/// The node's objects. All calls block.
#[derive(Debug, Clone)]
pub struct Objects {
    store: Store,
}

impl Objects {
    /// Opens the node's store, and creates it if it does not exist, with the namespace `default` and
    /// the StorageClass `standard`.
    ///
    /// # Errors
    /// If the store cannot be opened.
    pub fn open(paths: &Paths) -> Result<Self, ObjectError> {
        let objects = Self::of(node_store::open(paths)?);
        objects.ensure_namespace(DEFAULT_NAMESPACE)?;
        standard_class::ensure_standard_class(paths, &objects.store)?;
        Ok(objects)
    }

    /// The objects in this store.
    #[must_use]
    pub fn of(store: Store) -> Self {
        Self { store }
    }

    /// The objects for dry runs: operations check everything and write nothing.
    #[must_use]
    pub fn dry_run(&self) -> Self {
        Self::of(self.store.dry_run())
    }

    /// Whether operations write nothing.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.store.is_dry_run()
    }

    /// The store, for lists and watches.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// # Errors
    /// If the object does not exist ([`ObjectError::is_not_found`]), or cannot be read.
    pub fn get(&self, kind: &'static Kind, key: &Key) -> Result<Object, ObjectError> {
        Ok(self.store.get(&resource(kind), key)?)
    }

    /// The object, if it exists.
    ///
    /// # Errors
    /// If the object cannot be read.
    pub fn find(&self, kind: &'static Kind, key: &Key) -> Result<Option<Object>, ObjectError> {
        Ok(self.store.find(&resource(kind), key)?)
    }

    /// Creates an object, and its namespace if that does not exist.
    ///
    /// # Errors
    /// If the object is invalid, or exists already.
    pub fn create(&self, kind: &'static Kind, value: &Value) -> Result<Object, ObjectError> {
        let mut object = read(kind, value)?;
        let has_name = !name_of(&object).is_empty();
        object.set_defaults();
        object.prepare_for_create();
        claim_admission::admit(&self.store, &mut object)?;
        ObjectError::check(kind, name_of(&object), object.validate())?;
        if !has_name {
            // The store generates another name if the first one is in use.
            object.metadata_mut().name = None;
        }
        if !kind.namespaced {
            let created = self.store.create(&resource(kind), stored(&object)?)?;
            if kind.kind == "Namespace" {
                namespaces::ensure_account(&self.store, &created)?;
            }
            return Ok(created);
        }
        let namespace = object.metadata().namespace.clone().unwrap_or_default();
        self.enter_namespace(kind, name_of(&object), &namespace)?;
        let created = self.store.create(&resource(kind), stored(&object)?)?;
        self.stay(kind, &namespace, created)
    }

    /// Removes a new object if the deletion of its namespace has begun meanwhile, because the deletion may have missed
    /// the object.
    pub(super) fn stay(&self, kind: &'static Kind, namespace: &str, created: Object) -> Result<Object, ObjectError> {
        let Err(error) = self.enter_namespace(kind, created.name(), namespace) else {
            return Ok(created);
        };
        let deletion = Deletion {
            uid: Some(created.uid().to_owned()),
            ..Deletion::default()
        };
        let key = Key::namespaced(namespace, created.name());
        match self.store.delete(&resource(kind), &key, &deletion) {
            // The deletion of the namespace was faster, or this is a dry run.
            Err(error) if error.is_not_found() || error.is_conflict() => {}
            removed => drop(removed?),
        }
        Err(error)
    }

    /// Creates a namespace and its ServiceAccount, unless they exist.
    ///
    /// # Errors
    /// If its name is invalid, or the store cannot be read or written.
    pub fn ensure_namespace(&self, name: &str) -> Result<(), ObjectError> {
        Ok(namespaces::ensure_namespace(&self.store, name)?)
    }

    /// Prepares the creation of an object: creates its namespace if necessary.
    fn enter_namespace(&self, kind: &Kind, name: &str, namespace: &str) -> Result<(), ObjectError> {
        let found = self
            .store
            .find(&namespaces::namespace_resource(), &Key::cluster(namespace))?;
        match found {
            Some(found) if namespaces::is_ending(&found) => Err(ObjectError::Forbidden {
                resource: kind.qualified_plural(),
                name: name.to_owned(),
                reason: format!("unable to create new content in namespace {namespace} because it is being terminated"),
            }),
            Some(_) => Ok(()),
            None => self.ensure_namespace(namespace),
        }
    }

    /// Replaces an object with a complete new one. A `resourceVersion` in the new object must equal the stored one.
    ///
    /// # Errors
    /// If the object does not exist, has another version, or may not be changed like this.
    pub fn replace(&self, kind: &'static Kind, value: &Value) -> Result<Written, ObjectError> {
        let key = key_in(kind, value);
        self.change(kind, &key, Part::Main, |_| Ok(Some(value.clone())))
    }

    /// Applies a patch.
    ///
    /// # Errors
    /// If the object does not exist, the patch does not apply, or the object may not be changed like this.
    pub fn patch(&self, kind: &'static Kind, key: &Key, patch: &Patch, part: Part) -> Result<Written, ObjectError> {
        self.change(kind, key, part, |current| Ok(Some(patch.apply(kind, current)?)))
    }

    /// Changes an object. `change` returns the next content, or `None` to leave the object alone. If another process
    /// was faster, `change` is called again with the newer object.
    ///
    /// # Errors
    /// The errors of `change`. Also fails if the object does not exist, or may not be changed like this.
    pub fn change(
        &self,
        kind: &'static Kind,
        key: &Key,
        part: Part,
        mut change: impl FnMut(&Value) -> Result<Option<Value>, ObjectError>,
    ) -> Result<Written, ObjectError> {
        if part == Part::Status && !kind.subresources.contains(&"status") {
            return Err(ObjectError::NoSubresource {
                resource: kind.qualified_plural(),
                subresource: "status",
            });
        }
        self.store.modify(&resource(kind), key, |current| {
            let Some(new) = change(current.value())? else {
                return Ok(None);
            };
            let mut wanted = read(kind, &new)?;
            match_request(&mut wanted, key)?;
            check_is_same(kind, current, &new)?;
            self.next(kind, current, wanted, part).map(Some)
        })
    }

    /// The next content of an object, defaulted and validated.
    fn next(
        &self,
        kind: &'static Kind,
        current: &Object,
        mut object: Typed,
        part: Part,
    ) -> Result<Object, ObjectError> {
        let old = read(kind, current.value())?;
        object.set_defaults();
        match part {
            Part::Main => object.prepare_for_update(&old),
            Part::Status => {
                let mut value = object.to_value();
                if let Some(spec) = current.value().get("spec") {
                    value["spec"] = spec.clone();
                }
                object = read(kind, &value)?;
            }
        }
        ObjectError::check(kind, current.name(), object.validate_update(&old))?;
        if part == Part::Main {
            claim_admission::check_change(&self.store, &object, &old)?;
        }
        stored(&object)
    }

    /// Deletes an object, or only marks it if it has finalizers. The ServiceAccount `default` of a namespace comes back as
    /// another one.
    ///
    /// # Errors
    /// If the object does not exist, or a precondition does not hold.
    pub fn delete(&self, kind: &'static Kind, key: &Key, deletion: &Deletion) -> Result<Written, ObjectError> {
        let deleted = self.remove(kind, key, deletion)?;
        if let (Written::Removed(_), Some(namespace)) = (&deleted, &key.namespace)
            && comes_back(kind, key)
            && let Err(error) = self.bring_account_back(namespace)
        {
            // The deletion has succeeded. Later commands try again.
            tracing::warn!(
                "cannot create the service account of namespace {namespace}: {}",
                with_causes(&error)
            );
        }
        Ok(deleted)
    }

    /// Creates an object again after [`Self::delete`]. One that has come back meanwhile is replaced.
    ///
    /// # Errors
    /// See [`Self::create`].
    pub fn create_again(&self, kind: &'static Kind, value: &Value) -> Result<Object, ObjectError> {
        let key = key_in(kind, value);
        match self.create(kind, value) {
            Err(error) if error.is_already_exists() && comes_back(kind, &key) => {
                self.remove(kind, &key, &Deletion::default())?;
                self.create(kind, value)
            }
            created => created,
        }
    }

    /// Like [`Self::delete`], but nothing comes back.
    ///
    /// # Errors
    /// See [`Self::delete`].
    pub fn remove(&self, kind: &'static Kind, key: &Key, deletion: &Deletion) -> Result<Written, ObjectError> {
        Ok(self.store.delete(&resource(kind), key, deletion)?)
    }

    fn bring_account_back(&self, namespace: &str) -> Result<(), StoreError> {
        let found = self
            .store
            .find(&namespaces::namespace_resource(), &Key::cluster(namespace))?;
        found.map_or(Ok(()), |found| namespaces::ensure_account(&self.store, &found))
    }
}

/// Whether there is another object with this name soon after it was deleted.
fn comes_back(kind: &Kind, key: &Key) -> bool {
    kind.kind == "ServiceAccount" && key.name == DEFAULT_ACCOUNT
}

/// The key of the object in a request.
pub(super) fn key_in(kind: &Kind, value: &Value) -> Key {
    let text = |field: &str| {
        let field = value.pointer(field).and_then(Value::as_str);
        field.filter(|text| !text.is_empty())
    };
    let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
    key(kind, namespace, text("/metadata/name").unwrap_or_default())
}

/// Decodes an object.
///
/// # Errors
/// If the object has unknown fields, or values of the wrong type.
pub fn read(kind: &'static Kind, value: &Value) -> Result<Typed, ObjectError> {
    kind.read(value).map_err(|problems| ObjectError::Undecodable {
        kind: kind.kind,
        version: kind.api_version(),
        problems,
    })
}

fn name_of(object: &Typed) -> &str {
    object.metadata().name.as_deref().unwrap_or_default()
}

/// Refuses a changed object with the name or namespace of another one, and adds a missing namespace (`applyPatch` in
/// `pkg/endpoints/handlers/patch.go` of the API server).
///
/// # Errors
/// If the object has another namespace, another name, or no name.
pub fn match_request(object: &mut Typed, key: &Key) -> Result<(), ObjectError> {
    let metadata = object.metadata_mut();
    // An object outside of namespaces loses its namespace.
    let given = std::mem::replace(&mut metadata.namespace, key.namespace.clone());
    if key.namespace.is_some() && given.is_some_and(|given| !given.is_empty() && Some(given) != key.namespace) {
        return Err(ObjectError::OtherNamespace);
    }
    let expected = || key.name.clone();
    match metadata.name.as_deref().unwrap_or_default() {
        "" => Err(ObjectError::NoName { expected: expected() }),
        found if found != key.name => Err(ObjectError::OtherName {
            found: found.to_owned(),
            expected: expected(),
        }),
        _ => Ok(()),
    }
}

/// Refuses a change meant for another instance of the object or another version.
fn check_is_same(kind: &'static Kind, current: &Object, new: &Value) -> Result<(), StoreError> {
    let text = |field: &str| {
        new.pointer(field)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let conflict = |conflict| StoreError::Conflict {
        resource: kind.qualified_plural(),
        name: current.name().to_owned(),
        conflict,
    };
    if let Some(uid) = text("/metadata/uid").filter(|uid| *uid != current.uid()) {
        return Err(conflict(Conflict::Uid {
            expected: uid.to_owned(),
            found: current.uid().to_owned(),
        }));
    }
    let found = current.resource_version().map(|version| version.to_string());
    match text("/metadata/resourceVersion").filter(|version| *version != "0") {
        Some(expected) if found.as_deref() != Some(expected) => Err(conflict(Conflict::Modified)),
        _ => Ok(()),
    }
}

/// The object as it is stored. Empty maps and lists are left out, as by Go's encoder.
fn stored(object: &Typed) -> Result<Object, ObjectError> {
    let mut value = object.to_value();
    let is_empty = |value: &Value| match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, value| matches!(name.as_str(), "metadata" | "spec" | "status") || !is_empty(value));
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.retain(|_, value| !is_empty(value));
        }
    }
    Ok(Object::new(value).map_err(StoreError::from)?)
}
