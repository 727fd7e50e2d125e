//! Why an operation on an object failed, with the API server's messages. No error contains a value of a Secret.

use std::path::PathBuf;
use std::{fmt, io};

use microkube_manifest::Problem;
use microkube_manifest::kinds::Kind;
use microkube_patch::PatchError;
use microkube_store::StoreError;
use serde_json::Value;

/// An operation on an object failed.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// For example, the object does not exist, exists already, or has been modified.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The object, or its change, breaks a rule of its kind.
    #[error("{kind} {name:?} is invalid: {}", Messages(.problems))]
    Invalid {
        /// `ConfigMap`, `StorageClass.storage.k8s.io`
        kind: String,
        name: String,
        /// At least one.
        problems: Vec<Problem>,
    },
    /// The object has unknown fields or values of the wrong type.
    #[error("{kind} in version {version:?} cannot be handled as a {kind}: {}", Messages(.problems))]
    Undecodable {
        /// `ConfigMap`
        kind: &'static str,
        /// `v1`
        version: String,
        /// At least one.
        problems: Vec<Problem>,
    },
    #[error("{resource} {name:?} is forbidden: {reason}")]
    Forbidden {
        /// `configmaps`
        resource: String,
        name: String,
        reason: String,
    },
    /// The patch does not apply, or the result is too large.
    #[error(transparent)]
    Patch(#[from] PatchError),
    #[error("from {prefix}: cannot use generate name with apply")]
    GenerateName {
        /// `metadata.generateName`
        prefix: String,
    },
    /// A changed object has the namespace of another object.
    #[error("the namespace of the provided object does not match the namespace sent on the request")]
    OtherNamespace,
    /// A changed object has the name of another object.
    #[error("the name of the object ({found}) does not match the name on the URL ({expected})")]
    OtherName { found: String, expected: String },
    /// A changed object has no name.
    #[error("the name of the object ({expected} based on URL) was undeterminable: name must be provided")]
    NoName { expected: String },
    /// An apply would overwrite what others have changed since the last one.
    #[error("the patch conflicts with changes made from original to current")]
    Overwrites(Box<Overwritten>),
    /// A file that notes what was created could not be written.
    #[error("cannot write {}", path.display())]
    Mark {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{resource} have no subresource {subresource:?}")]
    NoSubresource {
        /// `configmaps`
        resource: String,
        subresource: &'static str,
    },
}

/// What an apply would overwrite.
pub struct Overwritten {
    /// The new configuration, with itself in its annotation.
    pub modified: Value,
    pub current: Value,
    pub patch: Value,
    /// The changes from the last applied configuration to the current object, as a patch.
    pub changes: Value,
}

/// Without the objects, whose values may be secret.
impl fmt::Debug for Overwritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overwritten").finish_non_exhaustive()
    }
}

impl ObjectError {
    /// The API server's word for this kind of error; `None` for errors of this node.
    #[must_use]
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::Store(StoreError::NotFound { .. }) => "NotFound",
            Self::Store(StoreError::AlreadyExists { .. }) => "AlreadyExists",
            Self::Store(StoreError::Conflict { .. }) => "Conflict",
            Self::Store(StoreError::Invalid { .. }) | Self::Invalid { .. } => "Invalid",
            Self::Store(
                StoreError::VersionSetOnCreate | StoreError::OtherType { .. } | StoreError::OtherName { .. },
            )
            | Self::Undecodable { .. }
            | Self::OtherNamespace
            | Self::OtherName { .. }
            | Self::NoName { .. }
            | Self::GenerateName { .. } => "BadRequest",
            Self::Store(StoreError::TooLarge { .. }) => "RequestEntityTooLarge",
            Self::Store(_) | Self::Mark { .. } | Self::Overwrites(_) => return None,
            Self::Forbidden { .. } => "Forbidden",
            Self::NoSubresource { .. } => "NotFound",
            Self::Patch(error) => match error.status() {
                400 => "BadRequest",
                413 => "RequestEntityTooLarge",
                422 => "Invalid",
                _ => "InternalError",
            },
        })
    }

    /// The broken rules, if there are any.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems, .. } | Self::Undecodable { problems, .. } => problems,
            _ => &[],
        }
    }

    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_not_found())
    }

    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_already_exists())
    }

    /// Fails if there are problems.
    pub(super) fn check(kind: &Kind, name: &str, problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        let kind = match kind.group {
            "" => kind.kind.to_owned(),
            group => format!("{}.{group}", kind.kind),
        };
        Err(Self::Invalid {
            kind,
            name: name.to_owned(),
            problems,
        })
    }
}

/// A single message, or all messages in brackets, as Kubernetes writes them.
struct Messages<'p>(&'p [Problem]);

impl fmt::Display for Messages<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [only] => f.write_str(&only.message),
            several => {
                let messages: Vec<&str> = several.iter().map(|problem| problem.message.as_str()).collect();
                write!(f, "[{}]", messages.join(", "))
            }
        }
    }
}
