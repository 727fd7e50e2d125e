//! A conversation with a Pod's supervisor about one process: its input and output, the size of its terminal, its end.

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::supervisor_protocol::{
    Notice, OutputStream, SupervisorFrame, SupervisorRequest, TerminalSize, read_frame, write_frame,
};
use crate::state::Paths;

/// What is heard of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// It runs, and takes input from now on.
    Started,
    /// It wrote something.
    Output {
        /// To which of its streams.
        stream: OutputStream,
        /// The bytes; none when the stream has ended.
        bytes: Vec<u8>,
    },
    /// It has ended, and all its output was heard.
    Exited(u8),
    /// The input has ended, and that of the container stays open.
    InputEnded,
}

/// What is heard of the process.
#[derive(Debug)]
pub struct SessionEvents(OwnedReadHalf);

/// What the process is sent.
#[derive(Debug)]
pub struct SessionInput(OwnedWriteHalf);

/// Begins the conversation on a connection that is there.
///
/// # Errors
/// [`ClientError::Frame`].
pub async fn begin(
    mut client: SupervisorClient,
    request: SupervisorRequest,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    client.ask(request).await?;
    Ok((SessionEvents(client.from), SessionInput(client.to)))
}

/// Connects to the supervisor of a Pod and begins the conversation.
///
/// # Errors
/// When there is no supervisor, or the conversation fails.
pub(super) async fn open(
    paths: &Paths,
    uid: &str,
    request: SupervisorRequest,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    begin(SupervisorClient::connect(paths, uid).await?, request).await
}

impl SessionEvents {
    /// The next event.
    ///
    /// # Errors
    /// When the supervisor refuses what was asked for, or goes away.
    pub async fn next(&mut self) -> Result<SessionEvent, ClientError> {
        loop {
            return Ok(match read_frame(&mut self.0).await?.ok_or(ClientError::WentAway)? {
                SupervisorFrame::Output { stream, bytes, .. } => SessionEvent::Output { stream, bytes },
                SupervisorFrame::Notice(Notice::Started | Notice::Attached) => SessionEvent::Started,
                SupervisorFrame::Notice(Notice::Exited { exit_code }) => SessionEvent::Exited(exit_code),
                SupervisorFrame::Notice(Notice::InputEnded) => SessionEvent::InputEnded,
                SupervisorFrame::Notice(Notice::Refused { message }) => return Err(ClientError::Refused(message)),
                _ => continue,
            });
        }
    }
}

impl SessionInput {
    /// Sends input; none is its end.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.0, &SupervisorFrame::Stdin(bytes)).await?)
    }

    /// Tells the size of the terminal here.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.0, &SupervisorFrame::Request(SupervisorRequest::Resize(size))).await?)
    }
}
