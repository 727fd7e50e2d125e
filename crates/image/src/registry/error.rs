//! Errors in the host's registry settings, and in a registry's redirects.

use std::io;
use std::path::PathBuf;

/// Why a file or directory of registry settings is unusable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    #[error("{0}")]
    Read(io::Error),
    #[error("it is not UTF-8 text")]
    NotText,
    #[error("line {line}: {message}")]
    Format { line: usize, message: String },
    #[error("version 1 of the format ([registries.…]) is not supported, only [[registry]]")]
    Version1,
    #[error("a [[registry]] has neither prefix nor location")]
    NoPrefix,
    #[error("location {0:?} must have the form HOST[:PORT][/NAMESPACE]")]
    Location(String),
    #[error("a mirror of {prefix:?} has no location")]
    MirrorWithoutLocation { prefix: String },
    #[error("its settings yield {0:?}, which is not an image name")]
    NotAName(String),
    #[error("it contains something other than PEM certificates")]
    NotACertificate,
    #[error("it contains no PEM certificate")]
    NoCertificate,
    #[error("it and {} are not a PEM certificate and key", key.display())]
    Identity { key: PathBuf },
}

/// Why a redirect is not followed; completes a sentence about the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    #[error("more than {max} times")]
    TooOften { max: usize },
    #[error("to a missing or invalid URL")]
    Nowhere,
    #[error("from https to http, to {host}")]
    Downgrade { host: String },
    #[error("to {host}, which supports only http")]
    PlainHttp { host: String },
    #[error("to a URL that is not http")]
    NotHttp,
}
