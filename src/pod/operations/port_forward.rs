//! Connects to ports on a Pod's localhost.

use super::session::{self, SessionEvent, SessionEvents, SessionInput};
use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::supervisor_protocol::{SupervisorRequest, VERSION_PORT_FORWARD};
use crate::state::Paths;

/// Asks the Pod's supervisor for a connection to a port. It is open when this returns: the events are its bytes, as
/// standard output, and the input goes to the server. The connection is over when both have ended with an empty chunk.
///
/// # Errors
/// If there is no supervisor, it is too old, or the server does not accept the connection.
pub async fn connect(paths: &Paths, uid: &str, port: u16) -> Result<(SessionEvents, SessionInput), ClientError> {
    let client = SupervisorClient::connect(paths, uid).await?;
    if client.version < VERSION_PORT_FORWARD {
        let message =
            "the pod runs under an older microkube, which cannot forward ports; restart its supervisor or the Pod";
        return Err(ClientError::Refused(message.to_owned()));
    }
    let (mut events, input) = session::begin(client, SupervisorRequest::PortForward { port }).await?;
    match events.next().await? {
        SessionEvent::Started => Ok((events, input)),
        _ => Err(ClientError::Unexpected),
    }
}
