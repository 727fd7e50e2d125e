//! What can go wrong with images, in terms that a Pod's status and a user can use.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microkube_erofs::ErofsError;

use super::credentials::error::CredentialsError;
use super::options::{MAX_BYTES_VARIABLE, MAX_FILES_VARIABLE, OptionError};
use super::reference::error::NameError;
use super::registry::error::{ConfigurationError, RedirectError};

/// Why an image is not there. [`ImageError::reason`] gives the kubelet's word for it.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The name is no image reference.
    #[error("invalid image name {name:?}: {why}; write it as [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    InvalidName {
        /// As given.
        name: String,
        /// What is wrong with it.
        why: NameError,
    },
    /// The pull policy forbids to fetch it (the kubelet's message).
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
    /// No such image in the store.
    #[error("no image {name:?} here; `microkube image ls` lists what there is")]
    NotFound {
        /// As given.
        name: String,
    },
    /// An abbreviated ID fits several images.
    #[error("{name:?} is the start of several image IDs; give more of it")]
    Ambiguous {
        /// As given.
        name: String,
    },
    /// Somebody removed the image between looking it up and opening its layers.
    #[error("image \"{reference}\" was removed while it was about to be used; it has to be pulled again")]
    Removed {
        /// Normalised reference.
        reference: String,
    },
    /// The image is there, but not all of what it was transferred as.
    #[error(
        "{what} of image \"{reference}\" is not kept here as it was transferred, so the image cannot be saved; pull it again \
         (with MICROKUBE_KEEP_BLOBS=yes, which is the default)"
    )]
    NoBlob {
        /// Normalised reference.
        reference: String,
        /// Which layer.
        what: String,
    },
    /// So many different images do not go into one Pod.
    #[error("the Pod's containers have {count} different images; a Pod can have {max}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
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
    /// A setting of the environment means nothing.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The store on disk could not be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ImageError {
    /// The file or directory of the store that it is about, or that of an archive.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Store(error) => Some(&error.path),
            Self::Pull { source, .. } => source.path(),
            Self::Load { path, source } => source.path().or(Some(path)),
            Self::Save { path, .. } => Some(path),
            _ => None,
        }
    }

    /// The kubelet's waiting reason for a container whose image fails this way (`pkg/kubelet/images/types.go`).
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

/// An error of a library below.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an image could not be brought into the store.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry has no such repository or tag.
    #[error("registry {registry} does not have it: check repository and tag")]
    NotFound {
        /// Host and port.
        registry: String,
    },
    /// The registry wants other credentials.
    #[error("registry {registry} denies access: the repository does not exist or needs credentials ({detail})")]
    Denied {
        /// Host and port.
        registry: String,
        /// What the registry says.
        detail: String,
    },
    /// No connection, or one that broke.
    #[error("cannot reach registry {registry}: check its name and the network")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// The client's error.
        #[source]
        source: Cause,
    },
    /// This host trusts no authority at all.
    #[error(
        "the certificate of {registry} cannot be checked: this host has no certificates of authorities; install \
         ca-certificates, or put the authority of just this registry into /etc/containers/certs.d/{registry}/ca.crt"
    )]
    NoAuthorities {
        /// Host and port.
        registry: String,
    },
    /// The registry, or somebody in its place, shows a certificate that is not accepted.
    #[error(
        "the certificate of {registry} is not accepted ({why}); if the registry is right, put its authority's certificate \
         into /etc/containers/certs.d/{registry}/ca.crt"
    )]
    Certificate {
        /// Host and port.
        registry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The registry speaks something else than TLS.
    #[error(
        "{registry} does not speak https ({why}); if it speaks http and the network to it is safe, say so with `insecure = \
         true` for it in /etc/containers/registries.conf"
    )]
    NotTls {
        /// Host and port.
        registry: String,
        /// What TLS says.
        why: String,
    },
    /// The registry sends elsewhere, in a way that is not followed.
    #[error("registry {registry} redirects {why}")]
    Redirect {
        /// Host and port.
        registry: String,
        /// Where or how often.
        why: RedirectError,
    },
    /// Credentials are unreadable.
    #[error("cannot read credentials from {origin}: {why}")]
    Credentials {
        /// File, secret or helper.
        origin: String,
        /// What is wrong with it.
        why: CredentialsError,
    },
    /// The host's settings of registries are unusable.
    #[error("cannot use {}: {why}", path.display())]
    Configuration {
        /// File.
        path: PathBuf,
        /// What is wrong with it.
        why: ConfigurationError,
    },
    /// The host's settings forbid the registry.
    #[error("images of {prefix} are blocked in /etc/containers/registries.conf")]
    Blocked {
        /// As in the settings.
        prefix: String,
    },
    /// The connection broke in the middle of a transfer, or stood still for too long.
    #[error("the connection to registry {registry} broke while {what} was transferred; try again")]
    Cut {
        /// Host and port.
        registry: String,
        /// Manifest, configuration or layer.
        what: String,
        /// The client's error.
        #[source]
        source: Cause,
    },
    /// The registry answered with an error of its own.
    #[error("registry {registry} answered with an error: {detail}")]
    Registry {
        /// Host and port.
        registry: String,
        /// What it says.
        detail: String,
        /// Whether trying again can help.
        transient: bool,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
    /// Nothing in it runs here.
    #[error("it has no variant for linux/amd64, only for {available}")]
    Platform {
        /// What it has.
        available: String,
    },
    /// Manifest or configuration make no sense or use something unknown.
    #[error("its {what} is not usable: {why}")]
    Invalid {
        /// Which document.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// Content is not what its digest says.
    #[error("{what} is corrupt: it has digest {actual} instead of {expected}")]
    Digest {
        /// Manifest, configuration or layer.
        what: String,
        /// From the manifest or configuration.
        expected: String,
        /// Computed.
        actual: String,
    },
    /// A layer could not be turned into a disk image.
    #[error("layer {digest} is not usable")]
    Layer {
        /// Digest of the blob.
        digest: String,
        /// Why.
        #[source]
        source: LayerError,
    },
    /// An archive or directory is not one of images, or has more or less than expected.
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

    /// Whether trying again can help.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, Self::Cut { .. } | Self::Registry { transient: true, .. })
    }

    /// How long the registry asks to be left alone.
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

/// Why a layer could not be written as a disk image, or layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// It is larger than a variable allows.
    #[error("{error}; {variable} sets this limit")]
    Limit {
        /// Which limit.
        error: ErofsError,
        /// The variable's name.
        variable: &'static str,
    },
    /// The image cannot be written for another reason.
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

/// Longest explanation that quotes what came from outside.
const QUOTE_MAX_CHARS: usize = 500;

/// Text that may quote what came from outside, for a terminal: control characters are shown, not sent, and it is not endless.
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

/// Control characters, and those that change the direction of what follows.
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// An operation on the image store's files failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}{}", path.display(), remedy(source))]
pub struct StoreError {
    /// What was tried, as an infinitive.
    pub action: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// The system's answer.
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
            " (the file system there is full; free space, or remove images with `microkube image rm`)"
        }
        io::ErrorKind::PermissionDenied => " (run as root, or set MICROKUBE_STATE_DIR to a directory of your own)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_a_layer_exceeds_is_told_with_its_variable() {
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
