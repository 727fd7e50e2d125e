//! EROFS images: written straight from a layer's tar stream, in one pass, without root, without unpacking; merged; and read again.
//!
//! Content goes to the image while the stream is read; names and attributes wait in a scratch file, and a few bytes an entry in
//! memory. The same stream always gives the same bytes. Whiteouts of the OCI layer format become what overlayfs understands.
//! Content can be compressed, where that pays. A stream's own compression, digests, the image store and settings from the
//! environment do not belong here.

// By these names the fuzz targets know this crate and their fuzzer.
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
