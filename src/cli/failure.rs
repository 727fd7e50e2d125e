//! Why a verb failed: its exit code and message.

use microkube_manifest::ManifestError;

use super::print::for_terminal;
use super::remedy;
use crate::config::ConfigError;
use crate::state::Paths;
use crate::stderr::{report, say};

/// Why a verb failed, with the exit code.
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

/// Reports an error.
pub(super) fn complain(error: &anyhow::Error) {
    if names_its_file(error) {
        say!("{}", for_terminal(&error.to_string()));
    } else {
        let remedy = remedy::of(error, &Paths::from_env()).map(|remedy| format!("; {remedy}"));
        let text = format!("{error:#}{}", remedy.unwrap_or_default());
        report!("{}", for_terminal(&text));
    }
}

/// Whether the error's message has one line per problem, each starting with its file, and needs no prefix.
fn names_its_file(error: &anyhow::Error) -> bool {
    error.downcast_ref::<ManifestError>().is_some() || matches!(error.downcast_ref(), Some(ConfigError::Wrong(_)))
}
