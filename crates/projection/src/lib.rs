//! Computes what a Pod takes from ConfigMaps, Secrets and its own fields: the environment of its containers and the
//! files of its configMap, secret, downwardAPI and projected volumes, by the kubelet's rules and with its messages.
//!
//! Everything here is a pure function of the Pod and of the objects that [`Objects`] finds. Reading objects, signing
//! tokens and writing files is up to the caller. Values never appear in `Debug` output or in errors, because they may
//! come from Secrets.

mod bound_pod;
mod content;
mod env_file;
mod environment;
mod error;
mod object_kind;
mod objects;
mod payload;
mod pod_field;
mod quote;
mod references;
mod resource_field;
#[cfg(test)]
mod testing;
mod volume;

pub use bound_pod::{Allocatable, BoundPod};
pub use content::Content;
pub use env_file::EnvFileError;
pub use environment::{Environment, MAX_ENVIRONMENT_BYTES, SkippedKeys, Variable, environment};
pub use error::{LookupError, PathError, ProjectionError, failed_mount_message};
pub use object_kind::ObjectKind;
pub use objects::Objects;
pub use payload::{File, MAX_VOLUME_BYTES};
pub use references::{Reference, references, volume_references};
pub use resource_field::own_amount;
pub use volume::{DEFAULT_MODE, DEFAULT_TOKEN_SECONDS, is_projected, volume_files};
