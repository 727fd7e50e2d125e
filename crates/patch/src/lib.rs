//! Kubernetes' patches of objects: JSON patch, JSON merge patch, strategic merge patch, and the three-way patch of
//! `apply`. Pure functions on JSON values.
//!
//! Objects and patches come from users and API clients. Their size and depth are bounded, so is the work of a patch, and
//! lists are merged in time proportional to their length (times its logarithm, to sort them).

mod applied;
mod bounds;
mod error;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-patch/mod.rs"]
mod fuzz_targets;
mod go_text;
mod identity;
pub mod json_patch;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
pub mod kinds;
pub mod last_applied;
mod limits;
pub mod merge_patch;
mod object;
mod schema;
pub mod strategic;
#[cfg(test)]
mod tests;

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_patch;

pub use applied::Applied;
pub use error::PatchError;
pub use identity::check_identity;
#[cfg(test)]
use kept_inputs::fuzz_target;
pub use limits::{Document, MAX_BYTES, MAX_DEPTH, MAX_OPERATIONS};
pub use schema::{Merge, Schema};
