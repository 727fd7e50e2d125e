//! Creating, changing and deleting objects.

use jiff::Timestamp;
use microkube_base::file_lock::Sharing;
use microkube_base::generated_name;

use crate::commit::{Committed, Content};
use crate::error::{Conflict, StoreError};
use crate::journal::Change;
use crate::key::Key;
use crate::object::Object;
use crate::resource::Resource;
use crate::rules::{self, Next};
use crate::store::Store;
use crate::version::ResourceVersion;

/// How many names are generated before a clash is an error, as in Kubernetes
/// (`maxNameGenerationCreateAttempts` in `registry/generic/registry/store.go`).
const GENERATED_NAMES: usize = 8;
/// How many times a write starts again because another process was faster.
const ATTEMPTS: usize = 16;

/// The result of a write.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// The object was replaced by this one.
    Changed(Object),
    /// The change had no effect: the object and its version stay the same.
    Unchanged(Object),
    /// The object was removed. This is its last state, with the version of its removal.
    Removed(Object),
}

impl Written {
    #[must_use]
    pub fn object(&self) -> &Object {
        match self {
            Self::Changed(object) | Self::Unchanged(object) | Self::Removed(object) => object,
        }
    }

    #[must_use]
    pub fn into_object(self) -> Object {
        match self {
            Self::Changed(object) | Self::Unchanged(object) | Self::Removed(object) => object,
        }
    }
}

/// How an object is deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// Delete only the object with this UID.
    pub uid: Option<String>,
    /// Delete only this version.
    pub resource_version: Option<ResourceVersion>,
    /// If this is not 0, the object is only marked: its `deletionTimestamp` is in this many seconds. Another deletion
    /// can only shorten the period.
    pub grace_period_seconds: u32,
}

/// A change of an object that is kept outside of the store.
#[derive(Debug, Clone, Copy)]
pub struct RecordChange<'c> {
    pub key: &'c Key,
    pub uid: &'c str,
    /// Whether the change removes the object.
    pub is_removal: bool,
}

impl Store {
    /// Creates an object, in the namespace and with the name or `generateName` of its `metadata`. Sets its UID,
    /// timestamp, generation and version.
    ///
    /// # Errors
    /// [`StoreError::AlreadyExists`] if there is an object with that name.
    pub fn create(&self, resource: &Resource, object: Object) -> Result<Object, StoreError> {
        if !object.name().is_empty() {
            return self.create_named(resource, object, false);
        }
        let Some(prefix) = object.text("generateName").map(str::to_owned) else {
            let problem = "Required value: name or generateName is required".to_owned();
            return Err(StoreError::invalid(resource, "", "metadata.name", problem));
        };
        let mut attempts = 1..=GENERATED_NAMES;
        loop {
            attempts.next();
            let mut object = object.clone();
            object.set("name", Some(generated_name::generate(&prefix).into()));
            match self.create_named(resource, object, true) {
                Err(error) if error.is_already_exists() && !attempts.is_empty() => {}
                created => return created,
            }
        }
    }

    fn create_named(&self, resource: &Resource, object: Object, generated: bool) -> Result<Object, StoreError> {
        let key = object.key();
        key.check(resource)?;
        let uid = uuid::Uuid::new_v4().to_string();
        let object = rules::create(resource, object, &uid, Timestamp::now())?;
        let exists = |terminating| StoreError::AlreadyExists {
            resource: resource.qualified_plural(),
            name: key.name.clone(),
            terminating,
            generated,
        };
        for _ in 0..ATTEMPTS {
            if let Some(existing) = self.find(resource, &key)? {
                return Err(exists(existing.is_terminating()));
            }
            match self.commit(resource, &key, None, Content::Object(&object), None)? {
                Committed::At(version) => return Ok(object.at(ResourceVersion(version))),
                Committed::DryRun => return Ok(object),
                Committed::Outdated => {}
            }
        }
        Err(exists(false))
    }

    /// Replaces an object with one of the same name. A `resourceVersion` in the new object must equal the stored one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the stored object has another version or UID, [`StoreError::NotFound`].
    pub fn update(&self, resource: &Resource, object: Object) -> Result<Written, StoreError> {
        let key = object.key();
        let expected = object.given_version().map(str::to_owned);
        self.write(resource, &key, |current| {
            let found = current.resource_version().map(|version| version.to_string());
            if expected.is_some() && expected != found {
                return Err(StoreError::conflict(resource, &key.name, Conflict::Modified));
            }
            rules::update(resource, current, object.clone())
        })
    }

    /// Changes an object at any version. `change` returns the new content, or `None` to leave the object alone. If
    /// another process was faster, `change` is called again with the newer object. It must not write the same object.
    ///
    /// # Errors
    /// The errors of `change`; [`StoreError::NotFound`]; [`StoreError::Conflict`] after many attempts.
    pub fn modify<E: From<StoreError>>(
        &self,
        resource: &Resource,
        key: &Key,
        mut change: impl FnMut(&Object) -> Result<Option<Object>, E>,
    ) -> Result<Written, E> {
        self.write(resource, key, |current| {
            let Some(new) = change(current)? else {
                return Ok(Next::Same);
            };
            same_name(key, &new)?;
            Ok(rules::update(resource, current, new)?)
        })
    }

    /// Deletes an object, or only marks it if it has finalizers or a grace period.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] if a precondition does not hold.
    pub fn delete(&self, resource: &Resource, key: &Key, deletion: &Deletion) -> Result<Written, StoreError> {
        // Unlike other messages, this one contains the kind (`BeforeDelete` in `rest/delete.go`).
        let refused = |conflict| StoreError::Conflict {
            resource: resource.qualified_kind(),
            name: key.name.clone(),
            conflict,
        };
        self.write(resource, key, |current| {
            if let Some(uid) = &deletion.uid
                && uid != current.uid()
            {
                return Err(refused(Conflict::DeleteUid {
                    expected: uid.clone(),
                    found: current.uid().to_owned(),
                }));
            }
            if let Some(expected) = deletion.resource_version
                && let Some(found) = current.resource_version()
                && expected != found
            {
                return Err(refused(Conflict::DeleteVersion { expected, found }));
            }
            Ok(rules::delete(current, deletion.grace_period_seconds, Timestamp::now()))
        })
    }

    /// Takes the next version for a change of an object that the caller keeps. The caller holds the object's lock, and
    /// makes the change afterwards. Unlike other writes, this one does not wait for the disk.
    ///
    /// # Errors
    /// If the name is invalid, or the store cannot be written.
    pub fn number_change(&self, resource: &Resource, change: RecordChange<'_>) -> Result<ResourceVersion, StoreError> {
        let RecordChange { key, uid, is_removal } = change;
        key.check(resource)?;
        let mut locked = self.lock(Sharing::Exclusive)?;
        let version = locked.next_version(|version| Change {
            version,
            resource: resource.qualified_plural(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: Some(uid.to_owned()),
            deleted: is_removal,
        })?;
        Ok(ResourceVersion(version))
    }

    /// Writes the result of `decide` for the stored object.
    fn write<E: From<StoreError>>(
        &self,
        resource: &Resource,
        key: &Key,
        mut decide: impl FnMut(&Object) -> Result<Next, E>,
    ) -> Result<Written, E> {
        key.check(resource)?;
        for _ in 0..ATTEMPTS {
            let turn = if self.dry_run { None } else { self.turn(resource, key)? };
            let current = self.get(resource, key)?;
            let expected = current.resource_version().map(|version| version.0);
            let (committed, object, is_removal) = match decide(&current)? {
                Next::Same => {
                    drop(turn);
                    if !self.dry_run {
                        self.confirm(resource, key)?;
                    }
                    return Ok(Written::Unchanged(current));
                }
                Next::Put(object) => (
                    self.commit(resource, key, expected, Content::Object(&object), turn)?,
                    object,
                    false,
                ),
                Next::Remove(object) => (
                    self.commit(resource, key, expected, Content::Removal, turn)?,
                    object,
                    true,
                ),
            };
            let object = match committed {
                Committed::At(version) => object.at(ResourceVersion(version)),
                Committed::DryRun => object,
                Committed::Outdated => continue,
            };
            return Ok(if is_removal {
                Written::Removed(object)
            } else {
                Written::Changed(object)
            });
        }
        Err(StoreError::conflict(resource, &key.name, Conflict::Modified).into())
    }
}

/// Checks that a change does not name another object.
fn same_name(key: &Key, new: &Object) -> Result<(), StoreError> {
    let expected = key.namespace.as_deref().unwrap_or_default();
    for (what, found, expected) in [
        ("name", new.name(), key.name.as_str()),
        ("namespace", new.namespace().unwrap_or_default(), expected),
    ] {
        if !found.is_empty() && found != expected {
            return Err(StoreError::OtherName {
                what,
                found: found.to_owned(),
                expected: expected.to_owned(),
            });
        }
    }
    Ok(())
}
