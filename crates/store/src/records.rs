//! Objects that other code keeps in files of its own, such as Pods. Such objects take their versions from this store,
//! whose lists and watches show them.
//!
//! A writer of such an object
//!
//! 1. takes a lock of the object, alone;
//! 2. takes the next version ([`crate::Store::number_change`]), which writes a line to the journal;
//! 3. changes the object, which then has this version;
//! 4. releases the lock.
//!
//! Readers share the object's lock. A reader that has found the line therefore waits until the change has been made or
//! its writer has died. If the writer died before the change, the number is lost, and the object is unchanged.
//!
//! A writer waits for the store's lock while it holds the object's lock. A holder of the store's lock must therefore
//! not wait for an object ([`Wait::No`]).

use std::error::Error;
use std::fmt;

use crate::error::StoreError;
use crate::key::Key;
use crate::object::Object;
use crate::resource::Resource;

/// Whether to wait for the writer of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Yes,
    No,
}

/// An object that is read under its lock.
#[derive(Debug)]
pub enum Reading {
    /// The object, with the version of its last change as its `resourceVersion`.
    Found(Box<Object>),
    Absent,
    /// The object's writer holds the lock. Returned only for [`Wait::No`].
    BeingChanged,
}

/// The objects of a type that other code keeps.
pub trait Records: fmt::Debug + Send + Sync {
    /// UIDs of all objects. The result may contain other UIDs.
    ///
    /// # Errors
    /// If the objects cannot be found at all.
    fn uids(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>>;

    /// Reads an object while it shares the object's lock.
    ///
    /// # Errors
    /// If the object, which may exist, cannot be read.
    fn read(&self, uid: &str, wait: Wait) -> Result<Reading, Box<dyn Error + Send + Sync>>;
}

/// Reads an object, after waiting for its writer.
pub(crate) fn read(records: &dyn Records, resource: &Resource, uid: &str) -> Result<Option<Object>, StoreError> {
    match try_read(records, resource, uid, Wait::Yes)? {
        Reading::Found(object) => Ok(Some(*object)),
        Reading::Absent | Reading::BeingChanged => Ok(None),
    }
}

pub(crate) fn try_read(
    records: &dyn Records,
    resource: &Resource,
    uid: &str,
    wait: Wait,
) -> Result<Reading, StoreError> {
    records.read(uid, wait).map_err(|source| StoreError::Record {
        resource: resource.qualified_plural(),
        uid: uid.to_owned(),
        source,
    })
}

/// UIDs of all objects.
pub(crate) fn uids(records: &dyn Records, resource: &Resource) -> Result<Vec<String>, StoreError> {
    records.uids().map_err(|source| StoreError::Records {
        resource: resource.qualified_plural(),
        source,
    })
}

/// The object with this name. An object that cannot be read may have it.
pub(crate) fn find(records: &dyn Records, resource: &Resource, key: &Key) -> Result<Option<Object>, StoreError> {
    let mut found: Option<Object> = None;
    let mut unreadable = None;
    for uid in uids(records, resource)? {
        match read(records, resource, &uid) {
            Ok(Some(object)) if object.key() == *key && found.as_ref().is_none_or(|other| is_newer(&object, other)) => {
                found = Some(object);
            }
            Ok(_) => {}
            Err(error) => unreadable = Some(error),
        }
    }
    match (found, unreadable) {
        (None, Some(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

/// Whether an object has replaced another one of the same name, which may still exist.
pub(crate) fn is_newer(object: &Object, other: &Object) -> bool {
    object.resource_version() > other.resource_version()
}
