//! A command line's side of a conversation with a Pod's supervisor.

use std::io;

use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::attach::{self, ContainerUsage, Frame, FrameError, Notice, Request, read_frame, write_frame};
use crate::state::Paths;

/// A supervisor could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("the Pod does not run: it has no supervisor (`microkube recover` starts those that are missing)")]
    NotRunning(#[source] io::Error),
    /// The supervisor cannot be reached.
    #[error("cannot connect to the Pod's supervisor")]
    Connect(#[source] io::Error),
    /// The conversation broke off.
    #[error("the conversation with the Pod's supervisor failed")]
    Frame(#[from] FrameError),
    /// The supervisor went away.
    #[error("the Pod's supervisor went away")]
    WentAway,
    /// The supervisor said no.
    #[error("{0}")]
    Refused(String),
    /// The supervisor answered with something else.
    #[error("the Pod's supervisor answered with something else than was asked for")]
    Unexpected,
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Client {
    /// From the supervisor.
    pub from: OwnedReadHalf,
    /// To the supervisor.
    pub to: OwnedWriteHalf,
}

impl Client {
    /// Connects to the supervisor of a Pod.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] where there is none, as of a Pod that has ended.
    pub fn connect(paths: &Paths, uid: &str) -> Result<Self, ClientError> {
        let stream = attach::connect(&paths.pod_run(uid)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(error),
            _ => ClientError::Connect(error),
        })?;
        Self::of(stream).map_err(ClientError::Connect)
    }

    /// Of a connection that is there.
    ///
    /// # Errors
    /// Outside of a runtime.
    pub fn of(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(stream)?.into_split();
        Ok(Self { from, to })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn ask(&mut self, request: Request) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.to, &Frame::Request(request)).await?)
    }

    /// What the Pod's containers use.
    ///
    /// # Errors
    /// The supervisor refuses, or the conversation fails.
    pub async fn stats(&mut self) -> Result<Vec<ContainerUsage>, ClientError> {
        self.ask(Request::Stats).await?;
        match read_frame(&mut self.from).await? {
            Some(Frame::Notice(Notice::Stats(usage))) => Ok(usage),
            Some(Frame::Notice(Notice::Refused { message })) => Err(ClientError::Refused(message)),
            Some(_) => Err(ClientError::Unexpected),
            None => Err(ClientError::WentAway),
        }
    }
}
