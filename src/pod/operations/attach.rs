//! Connects to the process of a container that runs.

use super::session::{self, SessionEvents, SessionInput};
use crate::pod::client::ClientError;
pub use crate::pod::supervisor_protocol::AttachOptions;
use crate::pod::supervisor_protocol::SupervisorRequest;
use crate::state::Paths;

/// Asks the Pod's supervisor for the connection. The container goes on after it.
///
/// # Errors
/// When there is no supervisor, or the conversation fails.
pub async fn attach(
    paths: &Paths,
    uid: &str,
    options: AttachOptions,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    session::open(paths, uid, SupervisorRequest::Attach(options)).await
}
