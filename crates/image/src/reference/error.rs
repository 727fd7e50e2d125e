//! What is wrong with a name of an image or with a digest.

/// What is wrong with a name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("64 hexadecimal digits are an image ID, which cannot be a name")]
    ImageId,
    #[error("{0:?} is not HOST[:PORT]")]
    Registry(String),
    #[error("it names no repository")]
    NoRepository,
    #[error("repository names are lower-case")]
    UpperCase,
    #[error("a repository has at most {max} characters")]
    LongRepository { max: usize },
    #[error("a part of the repository between slashes is empty")]
    EmptyComponent,
    #[error(
        "{0:?} is no part of a repository: those are letters and digits, with \".\", \"_\", \"__\" or hyphens between them"
    )]
    Component(String),
    #[error("{0:?} is no tag: those are letters, digits, \"_\", \".\" and \"-\", the last two not in front")]
    Tag(String),
    #[error("a tag has at most {max} characters")]
    LongTag { max: usize },
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// A name that is to be given has a digest.
    #[error("a digest cannot be given, only a tag")]
    GivenDigest,
}

/// Why a text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("digest {0:?} is not of the kind sha256")]
    Algorithm(String),
    #[error("digest {0:?} does not have 64 lower-case hexadecimal digits")]
    Digits(String),
}
