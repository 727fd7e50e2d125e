//! The events of a watch, and the form of objects in them.

use std::sync::Arc;

use crate::key::Key;
use crate::object::Object;
use crate::version::ResourceVersion;

/// A change of an object. The object's version is the version of the change.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<T = Arc<Object>> {
    Added(T),
    Modified(T),
    /// The object as the watch last reported it, at the version of its removal.
    Deleted(T),
}

impl<T> Event<T> {
    #[must_use]
    pub fn object(&self) -> &T {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => object,
        }
    }
}

/// An object without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub key: Key,
    pub uid: String,
    pub resource_version: ResourceVersion,
}

/// The part of an object that a watch reports, and keeps in memory to compare it with the next version. The trait is in
/// a private module, so only the types here implement it.
pub trait Observed: Clone {
    fn of(object: Arc<Object>) -> Self;
    fn uid(&self) -> &str;
    fn resource_version(&self) -> Option<ResourceVersion>;
    /// The object with another version.
    fn at(&self, version: ResourceVersion) -> Self;
}

impl Observed for Arc<Object> {
    fn of(object: Arc<Object>) -> Self {
        object
    }

    fn uid(&self) -> &str {
        Object::uid(self)
    }

    fn resource_version(&self) -> Option<ResourceVersion> {
        Object::resource_version(self)
    }

    fn at(&self, version: ResourceVersion) -> Self {
        Self::new(Object::clone(self).at(version))
    }
}

impl Observed for ObjectVersion {
    fn of(object: Arc<Object>) -> Self {
        Self {
            key: object.key(),
            uid: object.uid().to_owned(),
            // A stored object has a version.
            resource_version: object.resource_version().unwrap_or(ResourceVersion(0)),
        }
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn resource_version(&self) -> Option<ResourceVersion> {
        Some(self.resource_version)
    }

    fn at(&self, version: ResourceVersion) -> Self {
        Self {
            resource_version: version,
            ..self.clone()
        }
    }
}
