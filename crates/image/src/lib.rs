//! Images: from a registry or an archive into a content-addressed store, each layer as an EROFS disk image.
//!
//! [`ImageStore`] is the interface for the rest of the program. The EROFS format, how layers are stacked in a Pod, and
//! how a container is started from an image's configuration do not belong here.

// The fuzz targets refer to this crate and their fuzzer by these names.
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
pub use options::{LARGEST_MAX_BYTES, LARGEST_MAX_FILES, OptionError, Options};
pub use save::SaveTo;
pub use store::{ImageStore, StoreLock};
pub use sweep::Removed;
pub use verify::{Problem, Verification, Verified};

/// When to contact the registry, like a container's `imagePullPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// Every time; layers that are already present are not fetched again.
    Always,
    /// If the image is not present.
    IfNotPresent,
    /// Never; the image has to be present.
    Never,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Image {
    /// Normalised name, such as `docker.io/library/nginx:latest`.
    pub reference: String,
    /// Digest of the configuration, `sha256:…`.
    pub id: String,
    /// Digest of the manifest, `sha256:…`.
    pub manifest_digest: String,
    /// The name with which this exact image can be pulled from its registry, `REPOSITORY@sha256:…`. The digest is that
    /// of the document that the name referred to, a manifest or an index. `None` if the image came without one (from a
    /// `docker save` archive).
    pub repo_digest: Option<String>,
    pub config: ImageConfiguration,
    /// From lowest to topmost.
    pub layers: Vec<Layer>,
    /// Sum of the layers' lengths.
    pub size_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Digest of its uncompressed tar stream, `sha256:…`. For merged layers ([`ImageStore::fit`]), a digest that
    /// represents all of them.
    pub diff_id: String,
    /// Its EROFS file.
    pub path: PathBuf,
    /// Length of the file, a multiple of 4096.
    pub length_bytes: u64,
}

impl Image {
    /// Opens the layers' files for reading, lowest first. The open files stay usable even if they are removed from the
    /// store.
    ///
    /// Another process may remove the image between its lookup and this call: after [`ImageError::Removed`], ensure the
    /// image again.
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

    /// Kubernetes' name for a container's image (`imageID`), as in containerd: the name with the manifest's digest, or
    /// the configuration's digest if there is no such name.
    pub fn kubernetes_id(&self) -> &str {
        self.repo_digest.as_deref().unwrap_or(&self.id)
    }

    /// Creation time of the image according to its configuration (RFC 3339).
    pub fn created(&self) -> Option<&str> {
        self.config.created().as_deref()
    }
}

/// Receives the progress of adding an image. Layers are named by their digest; calls come from several threads.
pub trait Progress: Send + Sync {
    /// Received this many bytes of a layer, out of a total.
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64);
    /// Another process or image is fetching the layer, and this one waits for the result.
    fn layer_waiting(&self, _digest: &str) {}
    /// A layer is in the store; `present` if it already was.
    fn layer_done(&self, digest: &str, present: bool);
    /// A layout has only a tag for an image, and the image was loaded under the name `reference`.
    fn named_after_tag(&self, _tag: &str, _reference: &str) {}
}

/// Progress that is discarded.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quiet;

impl Progress for Quiet {
    fn layer_bytes(&self, _digest: &str, _received_bytes: u64, _total_bytes: u64) {}
    fn layer_done(&self, _digest: &str, _present: bool) {}
}
