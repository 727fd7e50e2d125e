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
    /// An entry is invalid or not allowed.
    #[error("entry {path} {why}")]
    Entry {
        /// The entry's path, escaped.
        path: String,
        /// The problem, as a predicate.
        why: String,
    },
    /// More files than are allowed.
    #[error("the layer has more than {limit} files")]
    TooManyFiles {
        /// How many are allowed.
        limit: u32,
    },
    /// More bytes of content than are allowed.
    #[error("the layer has more than {limit} bytes of content")]
    TooManyBytes {
        /// How many are allowed.
        limit: u64,
    },
    /// Names and attributes take more space than can be addressed.
    #[error("the names and attributes of the layer's files exceed 32 GiB")]
    TooManyEntries,
    /// A layer below cannot be read.
    #[error("a layer below cannot be read")]
    Lower(#[from] VolumeError),
    /// The image would be larger than EROFS can address.
    #[error("the layer exceeds the maximum of 16 TiB")]
    TooLarge,
    /// The image could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Writing the image or its scratch file failed.
#[derive(Debug, thiserror::Error)]
#[error("writing the image failed")]
pub struct OutputError(#[source] pub io::Error);

impl ErofsError {
    /// The error for a refused entry; `why` is a predicate.
    pub(super) fn entry(path: &[u8], why: impl Into<String>) -> Self {
        Self::Entry {
            path: path.escape_ascii().to_string(),
            why: why.into(),
        }
    }
}
