//! The store of a node's Kubernetes objects: one JSON file per object, which any process may write.
//!
//! - Each write takes the next number of one counter, the object's `resourceVersion`, under one lock. The write is
//!   durable before the call returns (`commit`, `counter`).
//! - [`Store::list`] reads the objects of a type as of one version, and [`Store::watch`] continues from there (`journal`).
//! - Objects that other code keeps in its own files appear in the same lists and watches (`records`).
//! - The rules of `metadata` are Kubernetes' (`rules`): UID, timestamps, generation, finalizers. The store has no
//!   rules for particular types: the caller describes the type ([`Resource`]), validates and defaults its objects, and
//!   decides what may change.
//! - Files are read as if an attacker had written them, and no error contains the content of an object.
//!
//! `docs/decisions/object-store.md` has the reasons.

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_store;

mod commit;
mod counter;
mod damage;
mod disk;
mod error;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-store/mod.rs"]
mod fuzz_targets;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod journal;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod key;
mod label;
mod list;
mod object;
#[cfg(test)]
mod power_cut;
mod read;
mod records;
mod resource;
mod revisions;
mod rules;
mod store;
mod sweep;
#[cfg(test)]
mod test_types;
#[cfg(test)]
mod tests;
mod version;
mod watch;
mod write;

pub use damage::{Damage, InvalidObject};
pub use error::{Conflict, StoreError};
#[cfg(test)]
use kept_inputs::fuzz_target;
pub use key::Key;
pub use list::List;
pub use object::{MAX_OBJECT_BYTES, Object};
pub use records::{Reading, Records, Wait};
pub use resource::{Generation, Resource, Scope};
pub use store::Store;
pub use version::{InvalidResourceVersion, ResourceVersion};
pub use watch::{Event, ObjectVersion, Watch};
pub use write::{Deletion, RecordChange, Written};
