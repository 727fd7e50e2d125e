//! What is wrong with the host's settings of registries, and with where a registry redirects to.

use std::io;
use std::path::PathBuf;

/// What is wrong with a file or directory of the host's settings of registries.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("{0}")]
    Read(io::Error),
    #[error("it is not text")]
    NotText,
    #[error("line {line}: {message}")]
    Format { line: usize, message: String },
    #[error("version 1 of the format ([registries.…]) is not supported, only [[registry]]")]
    Version1,
    #[error("a [[registry]] has neither prefix nor location")]
    NoPrefix,
    #[error("location {0:?} is not of the form HOST[:PORT][/NAMESPACE]")]
    Location(String),
    #[error("a mirror of {prefix:?} has no location")]
    MirrorWithoutLocation { prefix: String },
    #[error("its settings lead to {0:?}, which is no image name")]
    NotAName(String),
    #[error("it has something that is no certificate in PEM")]
    NotACertificate,
    #[error("it has no certificate in PEM")]
    NoCertificate,
    #[error("it and {} are no certificate and key in PEM", key.display())]
    Identity { key: PathBuf },
}

/// Why a redirection is not followed: the end of a sentence about who redirects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("more than {max} times")]
    TooOften { max: usize },
    #[error("to nowhere")]
    Nowhere,
    #[error("from https to http, to {host}")]
    Downgrade { host: String },
    #[error("to {host}, where only http is spoken")]
    PlainHttp { host: String },
    #[error("to something that is not http")]
    NotHttp,
}
