//! A session with a Pod's supervisor about one process: its input and output, its terminal size, its exit.

use std::path::PathBuf;

use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::logs::{OutputReader, Positions};
use crate::pod::supervisor_protocol::{
    Notice, OutputStream, SupervisorFrame, SupervisorRequest, TerminalSize, read_frame, write_frame,
};
use crate::state::Paths;

/// An event of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// The process is running and accepts input.
    Started,
    /// The process wrote output.
    Output {
        stream: OutputStream,
        /// The bytes; empty at the end of the stream.
        bytes: Vec<u8>,
    },
    /// The process has exited with this code, and all its output was received.
    Exited(u8),
    /// The client's input has ended; the container's input stays open.
    InputEnded,
}

/// Receives the events of the process.
#[derive(Debug)]
pub struct SessionEvents {
    from: OwnedReadHalf,
    /// Present in a session that includes earlier output.
    earlier: Option<EarlierOutput>,
}

/// The logged output of a container's attempt from before the session.
#[derive(Debug)]
struct EarlierOutput {
    dir: PathBuf,
    attempt: u32,
    /// Reads the log up to the start of the session.
    reader: Option<OutputReader>,
    received: Received,
}

/// What a session that includes earlier output has delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Received {
    /// Positions in both streams after what was delivered.
    pub positions: Positions,
    /// How many bytes before these positions were skipped, because the log does not have them.
    pub missing_bytes: u64,
}

/// Sends input to the process.
#[derive(Debug)]
pub struct SessionInput(OwnedWriteHalf);

/// Starts a session on an existing connection.
///
/// # Errors
/// [`ClientError::Frame`].
pub async fn begin(
    mut client: SupervisorClient,
    request: SupervisorRequest,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    client.ask(request).await?;
    let events = SessionEvents {
        from: client.from,
        earlier: None,
    };
    Ok((events, SessionInput(client.to)))
}

/// Connects to a Pod's supervisor and starts a session.
///
/// # Errors
/// If there is no supervisor, or the conversation fails.
pub(super) async fn open(
    paths: &Paths,
    uid: &str,
    request: SupervisorRequest,
) -> Result<(SessionEvents, SessionInput), ClientError> {
    begin(SupervisorClient::connect(paths, uid).await?, request).await
}

impl SessionEvents {
    /// Also delivers earlier output from the log of this attempt, up to where the supervisor says the session begins.
    pub(super) fn with_log(self, dir: PathBuf, attempt: u32) -> Self {
        let earlier = EarlierOutput {
            dir,
            attempt,
            reader: None,
            received: Received::default(),
        };
        Self {
            earlier: Some(earlier),
            ..self
        }
    }

    /// What was delivered so far, in a session that includes earlier output.
    #[must_use]
    pub fn received(&self) -> Option<Received> {
        self.earlier.as_ref().map(|earlier| earlier.received)
    }

    /// Waits for the next event.
    ///
    /// # Errors
    /// If the supervisor refuses the request, or disappears.
    pub async fn next(&mut self) -> Result<SessionEvent, ClientError> {
        loop {
            if let Some(earlier) = &mut self.earlier
                && let Some((stream, bytes)) = earlier.next()?
            {
                return Ok(SessionEvent::Output { stream, bytes });
            }
            return Ok(match read_frame(&mut self.from).await?.ok_or(ClientError::WentAway)? {
                SupervisorFrame::Output { stream, bytes, .. } => {
                    if let Some(earlier) = &mut self.earlier {
                        earlier.received(stream, &bytes);
                    }
                    SessionEvent::Output { stream, bytes }
                }
                SupervisorFrame::Notice(Notice::Started) => SessionEvent::Started,
                SupervisorFrame::Notice(Notice::Attached) => {
                    // An older supervisor does not say where in the output the session begins.
                    self.earlier = None;
                    SessionEvent::Started
                }
                SupervisorFrame::Notice(Notice::AttachedAt {
                    stdout_bytes: stdout,
                    stderr_bytes: stderr,
                }) => {
                    if let Some(earlier) = &mut self.earlier {
                        earlier.begin(Positions { stdout, stderr })?;
                    }
                    SessionEvent::Started
                }
                SupervisorFrame::Notice(Notice::Exited { exit_code }) => SessionEvent::Exited(exit_code),
                SupervisorFrame::Notice(Notice::InputEnded) => SessionEvent::InputEnded,
                SupervisorFrame::Notice(Notice::Refused { message }) => return Err(ClientError::Refused(message)),
                _ => continue,
            });
        }
    }
}

impl EarlierOutput {
    /// The session begins at these positions.
    fn begin(&mut self, positions: Positions) -> Result<(), ClientError> {
        let reader = OutputReader::open(&self.dir, self.attempt, Positions::default(), Some(positions));
        self.reader = Some(reader.map_err(ClientError::Log)?);
        Ok(())
    }

    fn next(&mut self) -> Result<Option<(OutputStream, Vec<u8>)>, ClientError> {
        let Some(reader) = &mut self.reader else {
            return Ok(None);
        };
        let next = reader.next_chunk().map_err(ClientError::Log)?;
        self.received.positions = reader.position();
        if next.is_none() {
            self.received.missing_bytes = reader.missing_bytes();
            self.reader = None;
        }
        Ok(next)
    }

    fn received(&mut self, stream: OutputStream, bytes: &[u8]) {
        let position = self.received.positions.of_mut(stream);
        *position = position.saturating_add(bytes.len() as u64);
    }
}

impl SessionInput {
    /// Sends input; an empty chunk ends it.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn write(&mut self, bytes: Vec<u8>) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.0, &SupervisorFrame::Stdin(bytes)).await?)
    }

    /// Sends the size of the local terminal.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.0, &SupervisorFrame::Request(SupervisorRequest::Resize(size))).await?)
    }
}
