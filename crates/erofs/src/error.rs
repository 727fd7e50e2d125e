//! Why an image could not be written.

use std::io;

use microkube_tar::TarError;

use super::volume::VolumeError;

/// Why a layer could not be written as an image.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The stream itself is broken or could not be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry means nothing, or something that is refused.
    #[error("entry {path} {why}")]
    Entry {
        /// The entry's path, escaped.
        path: String,
        /// What is wrong, as a predicate.
        why: String,
    },
    /// More files than are allowed.
    #[error("the layer has more than {limit} files")]
    TooManyFiles {
        /// How many are allowed.
        limit: u32,
    },
    /// More content than is allowed.
    #[error("the layer has more than {limit} bytes of content")]
    TooManyBytes {
        /// How many are allowed.
        limit: u64,
    },
    /// Names and attributes need more room than can be addressed.
    #[error("names and attributes of the layer's files exceed 32 GiB")]
    TooManyEntries,
    /// A layer below cannot be read.
    #[error("a layer below cannot be read")]
    Lower(#[from] VolumeError),
    /// More than EROFS can address.
    #[error("the layer exceeds 16 TiB, the most a layer may have")]
    TooLarge,
    /// The image could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Writing the image, or the file beside it, failed.
#[derive(Debug, thiserror::Error)]
#[error("writing the image failed")]
pub struct OutputError(#[source] pub io::Error);

impl ErofsError {
    /// For an entry that is refused; `why` is a predicate.
    pub(super) fn entry(path: &[u8], why: impl Into<String>) -> Self {
        Self::Entry {
            path: path.escape_ascii().to_string(),
            why: why.into(),
        }
    }
}
