//! EROFS images: writing one straight from a layer's tar stream in one pass, without root and without unpacking;
//! merging several; reading them.
//!
//! Content goes to the image while the stream is read. Names and attributes wait in a scratch file, with a few bytes
//! per entry in memory. The same stream always gives the same bytes. Whiteouts of the OCI layer format become overlayfs
//! whiteouts. Content can be compressed where that saves space. The stream's own compression, digests, the image store
//! and settings from the environment do not belong here.

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_erofs;

mod block_hash;
mod compressor;
mod data;
mod directory;
mod error;
mod format;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-erofs/mod.rs"]
mod fuzz_targets;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod layout;
mod limits;
mod lower;
mod merge;
mod needs;
#[cfg(test)]
mod reader;
mod record;
mod spill;
#[cfg(test)]
mod tests;
mod tree;
mod volume;
mod write;

pub use compressor::Compression;
pub use error::{ErofsError, OutputError};
#[cfg(test)]
use kept_inputs::fuzz_target;
pub use layout::Summary;
pub use limits::Limits;
pub use lower::LowerLayers;
pub use merge::merge;
pub use needs::Needs;
pub use volume::{Volume, VolumeError, VolumeInode};
pub use write::write_layer;
