//! A command line's side of a conversation with a Pod's supervisor, which may be of another build.

use std::io;

use microkube_protocol::NoCommonVersion;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::supervisor_protocol::{
    self, ContainerUsage, FrameError, Greeting, Notice, SupervisorFrame, SupervisorRequest, VERSIONS, Versions,
    read_frame, write_frame,
};
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
    /// The supervisor is of another build, and there is no version of the protocol that both speak.
    #[error(
        "the Pod's supervisor is of microkube {build} and speaks {peer} of its protocol, this microkube ({own}) {VERSIONS}; use \
         microkube {build} for this Pod",
        own = crate::build_id::build()
    )]
    Incompatible {
        /// The supervisor's build.
        build: String,
        /// What it speaks.
        peer: Versions,
    },
    /// The supervisor said no.
    #[error("{0}")]
    Refused(String),
    /// The supervisor answered with something else.
    #[error("the Pod's supervisor answered with something else than was asked for")]
    Unexpected,
}

/// A connection to a supervisor.
#[derive(Debug)]
pub struct SupervisorClient {
    /// From the supervisor.
    pub from: OwnedReadHalf,
    /// To the supervisor.
    pub to: OwnedWriteHalf,
    /// The version of the protocol that both speak.
    pub version: u32,
}

impl SupervisorClient {
    /// Connects to the supervisor of a Pod, and agrees with it on the version to speak.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] where there is none, as of a Pod that has ended; [`ClientError::Incompatible`].
    pub async fn connect(paths: &Paths, uid: &str) -> Result<Self, ClientError> {
        let mut client = Self::without_greeting(paths, uid)?;
        if client.greet().await? {
            Ok(client)
        } else {
            // It is of version 0, or has ended at this moment: then there is nobody to connect to any more.
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

    /// Of a connection that is there, on which version 0 is spoken.
    ///
    /// # Errors
    /// Outside of a runtime.
    pub fn of(stream: std::os::unix::net::UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (from, to) = UnixStream::from_std(stream)?.into_split();
        Ok(Self { from, to, version: 0 })
    }

    /// Says hello; false where the supervisor hangs up on it.
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

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError::Frame`].
    pub async fn ask(&mut self, request: SupervisorRequest) -> Result<(), ClientError> {
        Ok(write_frame(&mut self.to, &SupervisorFrame::Request(request)).await?)
    }

    /// What the Pod's containers use.
    ///
    /// # Errors
    /// The supervisor refuses, or the conversation fails.
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
