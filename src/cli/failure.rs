//! Why a verb failed: the exit code, and how it is told.

use microkube_manifest::ManifestError;

use super::print::for_terminal;
use super::remedy;
use crate::state::Paths;
use crate::stderr::{report, say};

/// Exit code for a bad manifest or command line.
const EXIT_USAGE: u8 = 2;

/// Why a verb failed, and the exit code that says so.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit_code: u8,
    pub(super) error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self {
            exit_code: 1,
            error: error.into(),
        }
    }
}

impl Failure {
    /// The user gave something that cannot be right.
    pub(super) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit_code: EXIT_USAGE,
            error: error.into(),
        }
    }
}

/// Says what went wrong.
pub(super) fn complain(error: &anyhow::Error) {
    if names_its_file(error) {
        say!("{}", for_terminal(&error.to_string()));
    } else {
        let remedy = remedy::of(error, &Paths::from_env()).map(|remedy| format!("; {remedy}"));
        let text = format!("{error:#}{}", remedy.unwrap_or_default());
        report!("{}", for_terminal(&text));
    }
}

/// Whether the error explains itself line by line, each with its file, and wants nothing before it.
fn names_its_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ManifestError>().is_some()
}
