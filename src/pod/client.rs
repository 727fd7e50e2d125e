//! The command line's side of the supervisor protocol. The supervisor may be from another build.

use std::io;

use microkube_protocol::NoCommonVersion;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::supervisor_protocol::{
    self, ContainerUsage, FrameError, Greeting, Notice, SupervisorFrame, SupervisorRequest, VERSIONS, Versions,
    read_frame, write_frame,
};
use crate::state::Paths;

/// The conversation with a supervisor failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process listens on the supervisor's socket.
    #[error("the Pod's supervisor is not running; run `microkube recover`")]
    NotRunning(#[source] io::Error),
    #[error("cannot connect to the Pod's supervisor")]
    Connect(#[source] io::Error),
    /// A frame could not be read or written.
    #[error("the connection to the Pod's supervisor failed")]
    Frame(#[from] FrameError),
    /// The log, which has the output before the session, cannot be read.
    #[error("cannot read the container's log")]
    Log(#[source] io::Error),
    /// The supervisor closed the connection.
    #[error("the Pod's supervisor closed the connection")]
    WentAway,
    /// The supervisor is from another build, and the two have no common protocol version.
    #[error(
        "the Pod's supervisor (microkube {build}) speaks protocol {peer}, this microkube ({own}) {VERSIONS}; use microkube \
         {build} for this Pod",
        own = crate::build_id::build()
    )]
    Incompatible {
        /// The supervisor's build.
        build: String,
        /// The protocol versions that it supports.
        peer: Versions,
    },
    /// The supervisor refused the request.
    #[error("{0}")]
    Refused(String),
    /// The supervisor sent an unexpected answer.
    #[error("the Pod's supervisor sent an unexpected answer")]
    Unexpected,
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct SupervisorClient {
    pub from: OwnedReadHalf,
    pub to: OwnedWriteHalf,
    /// The agreed protocol version.
    pub version: u32,
}

impl SupervisorClient {
    /// Connects to a Pod's supervisor and agrees on a protocol version.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if the Pod has no supervisor, for example because it has ended;
    /// [`ClientError::Incompatible`].
    pub async fn connect(paths: &Paths, uid: &str) -> Result<Self, ClientError> {
        let mut client = Self::without_greeting(paths, uid)?;
        if client.greet().await? {
            Ok(client)
        } else {
            // It uses version 0, or has just ended: then this connection fails too.
            Self::without_greeting(paths, uid)
        }
    }

    fn without_greeting(paths: &Paths, uid: &str) -> Result<Self, ClientError> {
        let stream = supervisor_protocol::connect(&paths.pod_run(uid)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NotRunning(error),
            _ => ClientError::Connect(error),
        })?;
        Self::of(stream).map_err(ClientError::Connect)
    }

    /// Wraps an existing connection that uses version 0.
    ///
    /// # Errors
    /// If called outside a tokio runtime.
    pub fn of(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(stream)?.into_split();
        Ok(Self { from, to, version: 0 })
    }

    /// Sends the greeting; returns false if the supervisor hangs up in response.
    async fn greet(&mut self) -> Result<bool, ClientError> {
        if let Err(ClientError::Frame(FrameError::Io(_))) = self.ask(SupervisorRequest::Hello(Greeting::own())).await {
            return Ok(false);
        }
        match read_frame(&mut self.from).await {
            Ok(Some(SupervisorFrame::Notice(Notice::Hello(supervisor)))) => {
                let agreed = VERSIONS.agree(supervisor.versions());
                self.version = agreed.map_err(|NoCommonVersion { peer, .. }| ClientError::Incompatible {
                    build: supervisor.build,
                    peer,
                })?;
                Ok(true)
            }
            Ok(None) | Err(FrameError::Io(_)) => Ok(false),
            Ok(Some(_)) => Err(ClientError::Unexpected),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn ask(&mut self, request: SupervisorRequest) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.to, &SupervisorFrame::Request(request)).await?)
    }

    /// Resource usage of the Pod's containers.
    ///
    /// # Errors
    /// If the supervisor refuses, or the conversation fails.
    pub async fn stats(&mut self) -> Result<Vec<ContainerUsage>, ClientError> {
        self.ask(SupervisorRequest::Stats).await?;
        match read_frame(&mut self.from).await? {
            Some(SupervisorFrame::Notice(Notice::Stats(usage))) => Ok(usage),
            Some(SupervisorFrame::Notice(Notice::Refused { message })) => Err(ClientError::Refused(message)),
            Some(_) => Err(ClientError::Unexpected),
            None => Err(ClientError::WentAway),
        }
    }
}

#[cfg(test)]
mod tests;
