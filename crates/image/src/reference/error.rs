//! Why an image name or digest is invalid.

/// Why an image name is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("64 hexadecimal digits are an image ID, not a name")]
    ImageId,
    #[error("{0:?} is not HOST[:PORT]")]
    Registry(String),
    #[error("it has no repository name")]
    NoRepository,
    #[error("repository names must be lower-case")]
    UpperCase,
    #[error("a repository has at most {max} characters")]
    LongRepository { max: usize },
    #[error("a part of the repository between slashes is empty")]
    EmptyComponent,
    #[error(
        "{0:?} is not a valid repository component: use letters and digits, separated by \".\", \"_\", \"__\" or hyphens"
    )]
    Component(String),
    #[error(
        "{0:?} is not a valid tag: use letters, digits, \"_\", \".\" and \"-\", and do not start with \".\" or \"-\""
    )]
    Tag(String),
    #[error("a tag has at most {max} characters")]
    LongTag { max: usize },
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A name to assign must not have a digest.
    #[error("a digest cannot be given, only a tag")]
    GivenDigest,
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("digest {0:?} is not a sha256 digest")]
    Algorithm(String),
    #[error("digest {0:?} does not have 64 lower-case hexadecimal digits")]
    Digits(String),
}
