//! Errors about images, in terms that suit a Pod's status and a user.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microkube_erofs::ErofsError;

use super::credentials::error::CredentialsError;
use super::options::{MAX_BYTES_VARIABLE, MAX_FILES_VARIABLE, OptionError};
use super::reference::error::NameError;
use super::registry::error::{ConfigurationError, RedirectError};

/// Why an image is not available. [`ImageError::reason`] gives the kubelet's reason.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is not an image reference.
    #[error("invalid image name {name:?}: {why}; write it as [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    InvalidName {
        /// As given.
        name: String,
        /// The problem.
        why: NameError,
    },
    /// The pull policy forbids fetching it (the kubelet's message).
    #[error("Container image \"{reference}\" is not present with pull policy of Never")]
    NeverPull {
        /// Normalised reference.
        reference: String,
    },
    /// Fetching it failed.
    #[error("failed to pull image \"{reference}\"")]
    Pull {
        /// Normalised reference.
        reference: String,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// Loading it from a file failed.
    #[error("failed to load images from {}", path.display())]
    Load {
        /// Archive or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<PullError>,
    },
    /// The store has no such image.
    #[error("no image {name:?}; `microkube image ls` lists all images")]
    NotFound {
        /// As given.
        name: String,
    },
    /// An abbreviated ID matches several images.
    #[error("{name:?} matches several image IDs; give more characters")]
    Ambiguous {
        /// As given.
        name: String,
    },
    /// Another process removed the image between the lookup and opening its layers.
    #[error("image \"{reference}\" was removed just before use; pull it again")]
    Removed {
        /// Normalised reference.
        reference: String,
    },
    /// The image is present, but part of it is not kept in its original form.
    #[error(
        "cannot save image \"{reference}\": {what} is not stored in its original form; pull the image again with \
         MICROKUBE_KEEP_BLOBS=yes (the default)"
    )]
    NoBlob {
        /// Normalised reference.
        reference: String,
        /// Which layer.
        what: String,
    },
    /// One Pod cannot hold this many different images.
    #[error("the Pod's containers use {count} different images; the maximum is {max}")]
    TooMany {
        /// The number of images.
        count: usize,
        /// The maximum.
        max: usize,
    },
    /// Layers could not be merged.
    #[error("cannot merge the lowest {count} layers of image \"{reference}\"")]
    Merge {
        /// Normalised reference.
        reference: String,
        /// How many layers.
        count: usize,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// Writing an archive failed.
    #[error("cannot write {}", path.display())]
    Save {
        /// Archive or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An environment variable has an invalid value.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The store on disk could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageError {
    /// The file or directory of the store, or the archive, that the error is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Store(error) => Some(&error.path),
            Self::Pull { source, .. } => source.path(),
            Self::Load { path, source } => source.path().or(Some(path)),
            Self::Save { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The kubelet's waiting reason for a container with this image error (`pkg/kubelet/images/types.go`).
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName { .. } => "InvalidImageName",
            Self::NeverPull { .. } => "ErrImageNeverPull",
            Self::Pull { .. } | Self::Load { .. } | Self::NotFound { .. } | Self::Removed { .. } => "ErrImagePull",
            Self::Ambiguous { .. }
            | Self::NoBlob { .. }
            | Self::TooMany { .. }
            | Self::Merge { .. }
            | Self::Save { .. }
            | Self::Option(_)
            | Self::Store(_) => "ImageInspectError",
        }
    }
}

/// An error of an underlying library.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image could not be added to the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry has no such repository or tag.
    #[error("registry {registry} does not have this image: check repository and tag")]
    NotFound {
        /// Host and port.
        registry: String,
    },
    /// The registry requires different credentials.
    #[error("registry {registry} denies access: the repository does not exist or needs credentials ({detail})")]
    Denied {
        /// Host and port.
        registry: String,
        /// The registry's message.
        detail: String,
    },
    /// The connection failed or broke.
    #[error("cannot reach registry {registry}: check its name and the network")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// The client's error.
        #[source]
        source: Cause,
    },
    /// This host trusts no certificate authority.
    #[error(
        "cannot verify the certificate of {registry}: this host has no CA certificates; install ca-certificates, or put this \
         registry's CA certificate into /etc/containers/certs.d/{registry}/ca.crt"
    )]
    NoAuthorities {
        /// Host and port.
        registry: String,
    },
    /// The certificate of the registry, or of an impostor, was not accepted.
    #[error(
        "the certificate of {registry} is not trusted ({why}); if this is the right registry, put its CA certificate \
         into /etc/containers/certs.d/{registry}/ca.crt"
    )]
    Certificate {
        /// Host and port.
        registry: String,
        /// The problem.
        why: String,
    },
    /// The registry does not speak TLS.
    #[error(
        "{registry} does not support https ({why}); if it supports http and the network is trusted, set `insecure = true` for \
         it in /etc/containers/registries.conf"
    )]
    NotTls {
        /// Host and port.
        registry: String,
        /// The TLS library's message.
        why: String,
    },
    /// The registry redirected in a way that is not followed.
    #[error("registry {registry} redirects {why}")]
    Redirect {
        /// Host and port.
        registry: String,
        /// Why it was not followed.
        why: RedirectError,
    },
    /// Credentials could not be read.
    #[error("cannot read credentials from {origin}: {why}")]
    Credentials {
        /// File, secret or helper.
        origin: String,
        /// The problem.
        why: CredentialsError,
    },
    /// The host's registry settings are unusable.
    #[error("cannot use {}: {why}", path.display())]
    Configuration {
        /// File.
        path: PathBuf,
        /// The problem.
        why: ConfigurationError,
    },
    /// The host's registry settings block this registry.
    #[error("images of {prefix} are blocked in /etc/containers/registries.conf")]
    Blocked {
        /// As in the settings.
        prefix: String,
    },
    /// The connection broke during a transfer or stalled for too long.
    #[error("the connection to registry {registry} broke during the transfer of {what}; try again")]
    Cut {
        /// Host and port.
        registry: String,
        /// Manifest, configuration or layer.
        what: String,
        /// The client's error.
        #[source]
        source: Cause,
    },
    /// The registry reported an error.
    #[error("registry {registry} returned an error: {detail}")]
    Registry {
        /// Host and port.
        registry: String,
        /// The registry's message.
        detail: String,
        /// Whether a retry can help.
        transient: bool,
        /// How long the registry asks clients to wait.
        retry_after: Option<Duration>,
    },
    /// The image is not available for this platform.
    #[error("it has no image for linux/amd64, only for {available}")]
    Platform {
        /// The platforms that it has.
        available: String,
    },
    /// A manifest or configuration is invalid or uses something unknown.
    #[error("its {what} is invalid: {why}")]
    Invalid {
        /// Which document.
        what: String,
        /// The problem.
        why: String,
    },
    /// Content does not match its digest.
    #[error("{what} is corrupt: it has digest {actual} instead of {expected}")]
    Digest {
        /// Manifest, configuration or layer.
        what: String,
        /// From the manifest or configuration.
        expected: String,
        /// Computed.
        actual: String,
    },
    /// A layer could not be converted to a disk image.
    #[error("layer {digest} is invalid")]
    Layer {
        /// Digest of the blob.
        digest: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// An archive or directory does not contain images, or more or fewer than expected.
    #[error("{0}")]
    Archive(String),
    /// The file to load from could not be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// The store on disk could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PullError {
    /// The file or directory that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Store(error) => Some(&error.path),
            Self::Configuration { path, .. } => Some(path),
            _ => None,
        }
    }

    /// Whether a retry can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Registry { transient: true, .. })
    }

    /// How long the registry asks clients to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Registry { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn invalid(what: impl Into<String>, why: impl ToString) -> Self {
        Self::Invalid {
            what: what.into(),
            why: printable(&why.to_string()),
        }
    }
}

/// Why a layer could not be written as a disk image or layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer is larger than a setting allows.
    #[error("{error}; {variable} sets this limit")]
    Limit {
        /// Which limit.
        error: ErofsError,
        /// The variable's name.
        variable: &'static str,
    },
    /// Writing the image failed for another reason.
    #[error(transparent)]
    Erofs(ErofsError),
}

impl From<ErofsError> for LayerError {
    fn from(error: ErofsError) -> Self {
        let variable = match error {
            ErofsError::TooManyFiles { .. } => MAX_FILES_VARIABLE,
            ErofsError::TooManyBytes { .. } => MAX_BYTES_VARIABLE,
            _ => return Self::Erofs(error),
        };
        Self::Limit { error, variable }
    }
}

/// Maximum length, in characters, of an explanation that quotes external input.
const QUOTE_MAX_CHARS: usize = 500;

/// External text made safe for a terminal: control characters are escaped, and its length is limited.
pub(super) fn printable(text: &str) -> String {
    let mut printable = String::new();
    for (index, character) in text.chars().enumerate() {
        if index == QUOTE_MAX_CHARS {
            printable.push('…');
            break;
        }
        if is_unprintable(character) {
            printable.extend(character.escape_default());
        } else {
            printable.push(character);
        }
    }
    printable
}

/// Control characters, and those that change the text direction.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// An operation on the image store's files failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), remedy(source))]
pub struct StoreError {
    /// The failed operation, as an infinitive.
    pub action: &'static str,
    /// The file or directory.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

impl StoreError {
    /// For `map_err` after an operation on `path`.
    pub(super) fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { action, path, source }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (the file system is full; free space, or remove images with `microkube image rm`)"
        }
        io::ErrorKind::PermissionDenied => " (run as root, or set MICROKUBE_STATE_DIR to a directory of your own)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_limit_is_reported_with_its_variable() {
        let text = |error| LayerError::from(error).to_string();
        assert_eq!(
            text(ErofsError::TooManyFiles { limit: 3 }),
            "the layer has more than 3 files; MICROKUBE_LAYER_MAX_FILES sets this limit"
        );
        assert_eq!(
            text(ErofsError::TooManyBytes { limit: 1000 }),
            "the layer has more than 1000 bytes of content; MICROKUBE_LAYER_MAX_BYTES sets this limit"
        );
        assert_eq!(text(ErofsError::TooLarge), ErofsError::TooLarge.to_string());
    }
}
