//! Runs a process in a running container.

use super::session::{self, SessionEvents, SessionInput};
use crate::pod::client::ClientError;
pub use crate::pod::supervisor_protocol::ExecOptions;
use crate::pod::supervisor_protocol::SupervisorRequest;
use crate::state::Paths;

/// Asks the Pod's supervisor to start the process. It ends with the conversation.
///
/// # Errors
/// If there is no supervisor, or the conversation fails.
pub async fn exec(
    paths: &Paths,
    uid: &str,
    options: ExecOptions,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    session::open(paths, uid, SupervisorRequest::Exec(options)).await
}
