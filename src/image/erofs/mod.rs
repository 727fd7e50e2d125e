//! Writes EROFS images, straight from a layer's tar stream: in one pass, without root, without unpacking.
//!
//! Content goes to the image while the stream is read; names and attributes wait in a scratch file, and a few bytes an entry in
//! memory. The same stream always gives the same bytes. Whiteouts of the OCI layer format become what overlayfs understands.
//! Content can be compressed, where that pays. Nothing here knows of a stream's own compression, the digests of an image or the
//! image store.

mod block_hash;
mod compressor;
mod data;
mod directory;
mod error;
pub(crate) mod format;
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
pub use limits::{Limits, MAX_BYTES_VARIABLE, MAX_FILES_VARIABLE};
pub use lower::LowerLayers;
pub use merge::merge;
#[cfg(any(test, fuzzing))]
pub use volume::VolumeInode;
pub use volume::{Volume, VolumeError};
pub use write::write_layer;
