//! What is wrong with where credentials come from. Nothing of it quotes a file or a secret, which would show what is in them.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

/// Why a file, secret or helper gives no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("REGISTRY_AUTH_FILE names it, but it does not exist")]
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

/// What is wrong with an entry of an auth file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    #[error("\"auth\" is not base64")]
    NotBase64,
    #[error("\"auth\" is not text")]
    NotText,
    #[error("\"auth\" is not USERNAME:PASSWORD in base64")]
    NotAPair,
    #[error("\"auth\" has characters that no password has")]
    ForbiddenCharacters,
}

/// Why a credential helper gives no answer.
#[derive(Debug, thiserror::Error)]
pub enum HelperError {
    #[error("this is no name of a credential helper")]
    InvalidName,
    #[error("it cannot be started: {0}")]
    Start(io::Error),
    #[error("its answer cannot be read: {0}")]
    Read(io::Error),
    #[error("{0}")]
    Wait(io::Error),
    #[error("it answered more than {max} bytes")]
    TooLarge { max: u64 },
    #[error("it did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    #[error("it failed with {0}")]
    Failed(ExitStatus),
    /// With what it wrote.
    #[error("it failed: {0}")]
    Said(String),
    #[error("it wrote no credentials as JSON")]
    Format,
}
