//! Attaches to the main process of a running container.

use std::path::PathBuf;

use super::logs::attempt_of;
use super::session::{self, SessionEvents, SessionInput};
use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::logs::container_dir;
pub use crate::pod::supervisor_protocol::AttachOptions;
use crate::pod::supervisor_protocol::{SupervisorRequest, VERSION_ATTACH_FROM_START};
use crate::state::Paths;

/// Asks the Pod's supervisor to attach. The container continues when the session ends.
///
/// With [`AttachOptions::from_start_of`], the session also delivers the output that the container wrote before; see
/// [`SessionEvents::received`].
///
/// # Errors
/// If there is no supervisor, or the conversation fails.
pub async fn attach(
    paths: &Paths,
    uid: &str,
    mut options: AttachOptions,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    let client = SupervisorClient::connect(paths, uid).await?;
    if client.version < VERSION_ATTACH_FROM_START {
        options.from_start_of = None;
    }
    let log: Option<(PathBuf, u32)> = options.from_start_of.as_ref().and_then(|id| {
        let attempt = attempt_of(id, &options.container)?;
        Some((container_dir(paths, uid, &options.container), attempt))
    });
    let (events, input) = session::begin(client, SupervisorRequest::Attach(options)).await?;
    Ok(match log {
        Some((dir, attempt)) => (events.with_log(dir, attempt), input),
        None => (events, input),
    })
}
