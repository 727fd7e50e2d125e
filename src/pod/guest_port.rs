//! Connections to TCP ports on the localhost of a Pod's guest, through its agent.

use std::time::Duration;

use tokio::net::UnixStream;

use super::agent::AgentError;
use super::guest_streams::GuestStreams;
use super::sandbox::AgentClientHandle;

/// How long the stream of a connection may take to arrive. The agent opens it before it answers.
const STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a port could not be connected to.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The agent did not connect.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The agent has answered, but its stream did not arrive.
    #[error("the guest did not open the stream of the connection to port {0}")]
    NoStream(u16),
}

/// Forgets the expected stream of a connection when dropped. Once the stream has arrived, this has no effect.
struct Expected<'s> {
    streams: &'s GuestStreams,
    id: String,
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.streams.forget_port(&self.id);
    }
}

/// Connects to a port; the stream carries its bytes both ways. Each direction ends by itself; closing the stream ends the
/// connection.
///
/// # Errors
/// [`PortError`].
pub async fn connect(agent: &AgentClientHandle, streams: &GuestStreams, port: u16) -> Result<UnixStream, PortError> {
    let expected = Expected {
        streams,
        id: format!("c-{}", uuid::Uuid::new_v4()),
    };
    let stream = streams.expect_port(&expected.id);
    agent.connect_port(&expected.id, port).await?;
    match tokio::time::timeout(STREAM_TIMEOUT, stream).await {
        Ok(Ok(stream)) => Ok(stream),
        _ => Err(PortError::NoStream(port)),
    }
}
