//! Connects to the process of a container that runs.

use super::session::{self, SessionEvents, SessionInput};
use crate::pod::client::ClientError;
use crate::pod::supervisor_protocol::{SupervisorRequest, TerminalSize};
use crate::state::Paths;

/// The connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attach {
    /// Name of the container in the manifest.
    pub container: String,
    /// Pass input to the container.
    pub stdin: bool,
    /// Size of the terminal here, if there is one.
    pub tty_size: Option<TerminalSize>,
}

impl From<Attach> for SupervisorRequest {
    fn from(attach: Attach) -> Self {
        let Attach {
            container,
            stdin,
            tty_size,
        } = attach;
        Self::Attach {
            container,
            stdin,
            tty_size,
        }
    }
}

/// Asks the Pod's supervisor for the connection. The container goes on after it.
///
/// # Errors
/// When there is no supervisor, or the conversation fails.
pub async fn attach(paths: &Paths, uid: &str, attach: Attach) -> Result<(SessionEvents, SessionInput), ClientError> {
    session::open(paths, uid, attach.into()).await
}
