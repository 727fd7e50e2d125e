//! Errors of the sources of credentials. None of them quotes a file or a secret, because that could reveal credentials.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a file, secret or helper provides no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("it does not exist (set by REGISTRY_AUTH_FILE)")]
    Missing,
    #[error("{0}")]
    Read(io::Error),
    #[error("it is too large")]
    TooLarge,
    #[error("{what} (line {line}, column {column})")]
    Format {
        what: &'static str,
        line: usize,
        column: usize,
    },
    #[error("entry {key:?}: {why}")]
    Entry { key: String, why: EntryError },
    #[error(transparent)]
    Helper(#[from] HelperError),
}

/// A problem with an entry of an auth file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("\"auth\" is not base64")]
    NotBase64,
    #[error("\"auth\" is not UTF-8 text")]
    NotText,
    #[error("\"auth\" is not USERNAME:PASSWORD in base64")]
    NotAPair,
    #[error("\"auth\" contains invalid characters")]
    ForbiddenCharacters,
}

/// Why a credential helper did not provide credentials.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("invalid credential helper name")]
    InvalidName,
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    #[error("its answer cannot be read: {0}")]
    Read(io::Error),
    #[error("{0}")]
    Wait(io::Error),
    #[error("its answer is longer than {max} bytes")]
    TooLarge { max: u64 },
    #[error("it did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("it failed with {0}")]
    Failed(ExitStatus),
    /// The helper's output.
    #[error("it failed: {0}")]
    Output(String),
    #[error("it did not write credentials as JSON")]
    Format,
}
