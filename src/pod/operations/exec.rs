//! Runs a further process in a container that runs.

use super::session::{self, SessionEvents, SessionInput};
use crate::pod::client::ClientError;
use crate::pod::supervisor_protocol::{SupervisorRequest, TerminalSize};
use crate::state::Paths;

/// The process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Name of the container in the manifest.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// It gets input.
    pub stdin: bool,
    /// It gets a terminal; all its output is then standard output.
    pub tty: bool,
    /// Size of that terminal.
    pub tty_size: Option<TerminalSize>,
}

impl From<Exec> for SupervisorRequest {
    fn from(exec: Exec) -> Self {
        let Exec {
            container,
            command,
            stdin,
            tty,
            tty_size,
        } = exec;
        Self::Exec {
            container,
            command,
            stdin,
            tty,
            tty_size,
        }
    }
}

/// Asks the Pod's supervisor for the process. It ends with the conversation.
///
/// # Errors
/// When there is no supervisor, or the conversation fails.
pub async fn exec(paths: &Paths, uid: &str, exec: Exec) -> Result<(SessionEvents, SessionInput), ClientError> {
    session::open(paths, uid, exec.into()).await
}
