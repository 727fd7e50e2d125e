//! Images: from a registry or an archive into a content-addressed store, each layer as an EROFS disk image.
//!
//! [`ImageStore`] is all that other parts need. What an EROFS image looks like, how layers are stacked in a Pod and how a container is
//! started from an image's configuration does not belong here.

// By these names the fuzz targets know this crate and their fuzzer.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_image;

mod archive;
mod config;
mod credentials;
mod decompress;
mod error;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-image/mod.rs"]
mod fuzz_targets;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod images;
mod index;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod layer;
mod load;
mod manifest;
mod merge;
mod names;
mod options;
mod pull;
mod reference;
mod registry;
mod save;
mod stack;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::File;
use std::io;
use std::path::PathBuf;

pub use credentials::PullSecret;
pub use error::{ImageError, LayerError, PullError, StoreError, is_unprintable};
#[cfg(test)]
use kept_inputs::fuzz_target;
pub use microkube_erofs::Compression;
pub use names::normalized;
pub use oci_spec::image::ImageConfiguration;
pub use options::{OptionError, Options};
pub use save::SaveTo;
pub use store::{ImageStore, StoreLock};
pub use sweep::Removed;
pub use verify::{Problem, Verification, Verified};

/// When to ask the registry, as a container's `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time; layers that are here already are not fetched again.
    Always,
    /// If the image is not here.
    IfNotPresent,
    /// Never; the image has to be here.
    Never,
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Normalised name, such as `docker.io/library/nginx:latest`.
    pub reference: String,
    /// Digest of the configuration, `sha256:…`.
    pub id: String,
    /// Digest of the manifest, `sha256:…`.
    pub manifest_digest: String,
    /// By which name anybody gets just this image from its registry, `REPOSITORY@sha256:…`: the digest is the one of the document that
    /// the name meant, a manifest or an index. `None` where it came without one (from an archive by `docker save`).
    pub repo_digest: Option<String>,
    /// The image's configuration.
    pub config: ImageConfiguration,
    /// From the lowest to the topmost.
    pub layers: Vec<Layer>,
    /// Sum of the layers' lengths.
    pub size_bytes: u64,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of its uncompressed tar stream, `sha256:…`; of merged layers ([`ImageStore::fit`]), one that stands for all of them.
    pub diff_id: String,
    /// The EROFS file.
    pub path: PathBuf,
    /// Length of the file, a multiple of 4096.
    pub length_bytes: u64,
}

impl Image {
    /// Opens the layers' files for reading, lowest first. From then on they stay usable whatever happens to the store.
    ///
    /// Between looking an image up and this, another process may remove it: [`ImageError::Removed`] then asks to ensure
    /// the image once more.
    pub fn open_layers(&self) -> Result<Vec<File>, ImageError> {
        Self::open_all(&self.layers, &self.reference)
    }

    fn open_all(layers: &[Layer], reference: &str) -> Result<Vec<File>, ImageError> {
        let open = |layer: &Layer| {
            File::open(&layer.path).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => ImageError::Removed {
                    reference: reference.to_owned(),
                },
                _ => StoreError::of("open", &layer.path)(error).into(),
            })
        };
        layers.iter().map(open).collect()
    }

    /// What Kubernetes calls the image that a container runs (`imageID`), as containerd does: the name with the manifest's digest, or
    /// the configuration's digest if there is no such name.
    pub fn kubernetes_id(&self) -> &str {
        self.repo_digest.as_deref().unwrap_or(&self.id)
    }

    /// When the image was made, as its configuration says (RFC 3339).
    pub fn created(&self) -> Option<&str> {
        self.config.created().as_deref()
    }
}

/// Hears how adding an image goes on. Layers are named by their digest; calls come from several threads.
pub trait Progress: Send + Sync {
    /// So many bytes of a layer have come, of so many.
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64);
    /// Another process or image is fetching a layer; its result is waited for.
    fn layer_waiting(&self, _digest: &str) {}
    /// A layer is in the store; `present` if it was there before.
    fn layer_done(&self, digest: &str, present: bool);
}

/// Progress that nobody looks at.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn layer_bytes(&self, _digest: &str, _received_bytes: u64, _total_bytes: u64) {}
    fn layer_done(&self, _digest: &str, _present: bool) {}
}
