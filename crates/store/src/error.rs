//! Why a call of the store failed. No error contains the content of an object.

use std::io;
use std::path::{Path, PathBuf};

use crate::damage::{Damage, InvalidObject};
use crate::resource::Resource;
use crate::version::ResourceVersion;

/// The messages are Kubernetes' own where it has one.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{resource} {name:?} not found")]
    NotFound {
        /// [`Resource::qualified_plural`]
        resource: String,
        name: String,
    },
    #[error("{}{resource} {name:?} already exists{}", if *.terminating { "object is being deleted: " } else { "" },
        if *.generated { ", the server was not able to generate a unique name for the object" } else { "" })]
    AlreadyExists {
        /// [`Resource::qualified_plural`]
        resource: String,
        name: String,
        /// Whether the existing object is being deleted.
        terminating: bool,
        /// Whether the name comes from `generateName`.
        generated: bool,
    },
    /// The object is not in the state that the caller expects.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {conflict}")]
    Conflict {
        /// [`Resource::qualified_plural`]
        resource: String,
        name: String,
        conflict: Conflict,
    },
    #[error("{kind} {name:?} is invalid: {field}: {problem}")]
    Invalid {
        /// [`Resource::qualified_kind`]
        kind: String,
        name: String,
        field: &'static str,
        problem: String,
    },
    #[error("resourceVersion should not be set on objects to be created")]
    VersionSetOnCreate,
    #[error("{field} in the data ({found}) does not match the expected one ({expected})")]
    OtherType {
        /// `apiVersion` or `kind`
        field: &'static str,
        found: String,
        expected: String,
    },
    #[error("the {what} of the object ({found}) does not match the {what} on the request ({expected})")]
    OtherName {
        /// `name` or `namespace`
        what: &'static str,
        found: String,
        expected: String,
    },
    /// The object is longer than the store can read.
    #[error("{resource} {name:?} is too large: {bytes} bytes exceed the limit of {limit}")]
    TooLarge {
        resource: String,
        name: String,
        bytes: usize,
        limit: u64,
    },
    #[error(transparent)]
    InvalidObject(#[from] InvalidObject),
    /// The caller's type cannot be stored.
    #[error("{name:?} is not the name of a type")]
    InvalidType { name: String },
    /// Other code keeps the objects of this type ([`crate::Records`]), and only that code changes them.
    #[error("{resource} cannot be changed through the store of objects")]
    KeptElsewhere {
        /// [`Resource::qualified_plural`]
        resource: String,
    },
    /// An object that is kept outside of the store's files cannot be read.
    #[error("cannot read {resource} with UID {uid:?}")]
    Record {
        /// [`Resource::qualified_plural`]
        resource: String,
        uid: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The objects of a type that are kept outside of the store's files cannot be found.
    #[error("cannot list {resource}")]
    Records {
        /// [`Resource::qualified_plural`]
        resource: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("cannot {action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the file system of {path} has no unnamed files (O_TMPFILE); move the state directory to ext4, XFS, Btrfs or tmpfs"
    )]
    FileSystem { path: PathBuf },
    /// A file differs from what the store wrote.
    #[error("{path} is damaged: {damage}; {remedy}")]
    Damaged {
        path: PathBuf,
        damage: Damage,
        /// The remedy.
        remedy: &'static str,
    },
    #[error(
        "{path} was written by a newer microkube, in format version {found}; this one knows versions up to {known}; use the \
         newer microkube"
    )]
    Newer { path: PathBuf, found: u64, known: u32 },
    /// The 64-bit counter is exhausted.
    #[error("{path}: no resource versions are left")]
    Exhausted { path: PathBuf },
}

/// A difference from the caller's expectation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    #[error("the object has been modified; please apply your changes to the latest version and try again")]
    Modified,
    #[error("Precondition failed: UID in precondition: {expected}, UID in object meta: {found}")]
    Uid { expected: String, found: String },
    #[error(
        "the UID in the precondition ({expected}) does not match the UID in record ({found}). The object might have been \
         deleted and then recreated"
    )]
    DeleteUid { expected: String, found: String },
    #[error(
        "the ResourceVersion in the precondition ({expected}) does not match the ResourceVersion in record ({found}). The \
         object might have been modified"
    )]
    DeleteVersion {
        expected: ResourceVersion,
        found: ResourceVersion,
    },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::NotFound {
            resource: resource.qualified_plural(),
            name: name.to_owned(),
        }
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, conflict: Conflict) -> Self {
        Self::Conflict {
            resource: resource.qualified_plural(),
            name: name.to_owned(),
            conflict,
        }
    }

    pub(crate) fn invalid(resource: &Resource, name: &str, field: &'static str, problem: String) -> Self {
        Self::Invalid {
            kind: resource.qualified_kind(),
            name: name.to_owned(),
            field,
            problem,
        }
    }

    /// Reports an object's file or directory that the store did not write.
    pub(crate) fn damaged_object(path: &Path, damage: Damage) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            damage,
            remedy: "repair it, or remove it (the object is then gone)",
        }
    }

    /// Whether the error concerns a single object, and the others can be read.
    #[must_use]
    pub fn is_about_one_object(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Record { .. })
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::AlreadyExists { .. })
    }

    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }
}
