//! The protocol between a Pod's supervisor and command lines, over a Unix socket: either the socket that the foreground
//! `run` passes to its supervisor, or a connection to `supervisor.sock` in the Pod's run directory.
//!
//! A frame is a header (`frame_header`) and its payload. Input and output are raw bytes, everything else is JSON. A
//! connection carries one conversation: after [`SupervisorRequest::Exec`] or [`SupervisorRequest::Attach`] it ends with
//! [`Notice::Exited`], [`Notice::InputEnded`] or [`Notice::Refused`]. After [`SupervisorRequest::PortForward`] it ends
//! when both sides have ended their bytes, or with [`Notice::Refused`]; a side that closes it earlier has lost the
//! connection to the port.
//!
//! The two sides may be of different builds, because a supervisor lives as long as its Pod. A command line starts with
//! [`SupervisorRequest::Hello`], the supervisor answers with [`Notice::Hello`], and both use the latest version that
//! they have in common ([`VERSIONS`]). A supervisor of version 0 does not support the greeting and hangs up; the
//! command line then connects again without it. A command line that does not greet uses version 0. The supervisor of a
//! foreground Pod and its command line are of the same build, and do not greet.
//!
//! A change that readers may ignore (a new field) keeps the version. A change that they must understand (a new request,
//! notice or frame kind, another framing) raises it, and is not sent in older versions. In every version, a Pod from
//! the previous build answers `exec`, `attach`, `logs`, `top` and `delete`.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net as blocking;
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodCondition};
pub use microkube_protocol::Versions;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::timings::Stage;
use crate::build_id::build;
use crate::frame_header::{self, HEADER_BYTES};
pub use crate::terminal::TerminalSize;

/// Name of the supervisor's socket in the run directory of its Pod.
pub const SOCKET_FILE: &str = "supervisor.sock";

/// Largest payload that either side accepts, in bytes.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The versions of this protocol that this build supports. `docs/decisions/versions.md` has the rules for raising them.
pub const VERSIONS: Versions = Versions { oldest: 0, newest: 4 };

/// The version with [`AttachOptions::from_start_of`].
pub const VERSION_ATTACH_FROM_START: u32 = 2;

/// The version with [`SupervisorRequest::Update`].
pub const VERSION_UPDATE: u32 = 3;
/// The version with [`SupervisorRequest::AddEphemeralContainer`].
pub const VERSION_EPHEMERAL_CONTAINERS: u32 = 3;

/// The version with [`SupervisorRequest::PortForward`].
pub const VERSION_PORT_FORWARD: u32 = 4;

const KIND_OUTPUT: u8 = 1;
const KIND_LOG: u8 = 2;
const KIND_NOTICE: u8 = 3;
const KIND_REQUEST: u8 = 4;
const KIND_STDIN: u8 = 5;

/// An output stream of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A message between supervisor and client. `Debug` does not show the bytes of streams.
#[derive(Clone, PartialEq)]
pub enum SupervisorFrame {
    /// Bytes that a container wrote. An empty payload ends the stream.
    Output {
        /// Index of the container in the manifest; 0 after [`SupervisorRequest::Exec`],
        /// [`SupervisorRequest::Attach`] and [`SupervisorRequest::PortForward`].
        container: u16,
        /// Which of the container's streams.
        stream: OutputStream,
        bytes: Vec<u8>,
    },
    /// Bytes of the guest's console and kernel log, for `--debug`.
    Log(Vec<u8>),
    /// Supervisor to client.
    Notice(Notice),
    /// Client to supervisor.
    Request(SupervisorRequest),
    /// Client to supervisor: standard input for [`SupervisorRequest::Exec`] or [`SupervisorRequest::Attach`], or bytes
    /// for the port of [`SupervisorRequest::PortForward`]. An empty payload ends it.
    Stdin(Vec<u8>),
}

impl fmt::Debug for SupervisorFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output {
                container,
                stream,
                bytes,
            } => write!(f, "Output({container}, {stream:?}, {} bytes)", bytes.len()),
            Self::Log(bytes) => write!(f, "Log({} bytes)", bytes.len()),
            Self::Notice(notice) => f.debug_tuple("Notice").field(notice).finish(),
            Self::Request(request) => f.debug_tuple("Request").field(request).finish(),
            Self::Stdin(bytes) => write!(f, "Stdin({} bytes)", bytes.len()),
        }
    }
}

/// The build of a peer, and the protocol versions it supports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    pub oldest: u32,
    /// The latest one.
    pub newest: u32,
    /// The build, for display only.
    pub build: String,
}

impl Greeting {
    /// The greeting of this process.
    #[must_use]
    pub fn own() -> Self {
        Self {
            oldest: VERSIONS.oldest,
            newest: VERSIONS.newest,
            build: build().to_owned(),
        }
    }

    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            oldest: self.oldest,
            newest: self.newest,
        }
    }
}

/// A notice from the supervisor to its client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// The request is done: [`SupervisorRequest::Delete`].
    Done,
    /// Answers [`SupervisorRequest::Attach`]: output follows.
    Attached,
    /// Answers [`SupervisorRequest::Attach`] with [`AttachOptions::from_start_of`]: the output from these positions on
    /// follows; the log has all output before them. Since version 2.
    AttachedAt { stdout_bytes: u64, stderr_bytes: u64 },
    /// Answers [`SupervisorRequest::Exec`]: the command is running. Answers [`SupervisorRequest::PortForward`]: the port
    /// is connected.
    Started,
    /// The command or container has exited, and all its output was sent. The last frame of its conversation.
    Exited {
        /// Exit code as a shell reports it.
        exit_code: u8,
    },
    /// The client's input has ended; the container's input stays open. The last frame of its conversation.
    InputEnded,
    /// The request was refused. The last frame of its conversation.
    Refused {
        /// Why.
        message: String,
    },
    /// Answers [`SupervisorRequest::Update`]: the Pod was changed since the version in the request, so the request had
    /// no effect. Since version 3.
    Outdated,
    /// Answers [`SupervisorRequest::Stats`]: usage of the running containers.
    Stats(Vec<ContainerUsage>),
    /// Answers [`SupervisorRequest::Hello`]. Since version 1.
    Hello(Greeting),
    /// A report about the Pod. On the wire, its variants are at the same level as those of this enum.
    #[serde(untagged)]
    Pod(PodNotice),
}

impl From<PodNotice> for SupervisorFrame {
    fn from(notice: PodNotice) -> Self {
        Self::Notice(Notice::Pod(notice))
    }
}

/// A report about a Pod, for the command line that follows the Pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodNotice {
    /// A warning for the user; the Pod continues.
    Warning(String),
    /// An image is being pulled.
    PullProgress {
        /// Image name in the manifest.
        image: String,
        received_bytes: u64,
        /// Total bytes, if known.
        total_bytes: Option<u64>,
    },
    /// An image is available in the store.
    Pulled {
        /// Image name in the manifest.
        image: String,
    },
    /// All containers were started.
    Running {
        pod_ip: String,
        /// Durations of the startup stages.
        stages: Vec<Stage>,
    },
    /// A container ended.
    ContainerEnded {
        /// Index of the container in the manifest.
        container: u16,
        /// Exit code as a shell reports it.
        exit_code: u8,
        /// `Completed`, `Error`, `OOMKilled`, …
        reason: String,
        /// Details, if there are any.
        message: Option<String>,
    },
    /// The Pod has ended and all its host resources are released. The last frame.
    Finished {
        /// The exit code of `run`.
        exit_code: u8,
        /// Why the Pod could not run to its end, if it could not.
        error: Option<String>,
    },
}

/// Current resource usage of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// Name in the manifest.
    pub container: String,
    /// CPU time per second, in nanoseconds: 1000000000 is one processor.
    pub cpu_nanocores: u64,
    /// Memory in use, except for what the kernel can reclaim immediately (the kubelet's working set).
    pub memory_bytes: u64,
}

/// How a client attaches to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Name of the container in the manifest.
    pub container: String,
    /// Whether input follows as [`SupervisorFrame::Stdin`].
    pub stdin: bool,
    /// Size of the client's terminal, if it has one.
    pub tty_size: Option<TerminalSize>,
    /// The client wants all output of the attempt with this container ID, from its start. Another attempt is refused.
    /// Since version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_start_of: Option<String>,
}

/// A process to run in a running container. `Debug` does not show its command line, which can contain passwords.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOptions {
    /// Name of the container in the manifest.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether input follows as [`SupervisorFrame::Stdin`].
    pub stdin: bool,
    /// Whether the process gets a terminal. All its output is then standard output.
    pub tty: bool,
    pub tty_size: Option<TerminalSize>,
}

impl fmt::Debug for ExecOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecOptions")
            .field("container", &self.container)
            .field("command", &format_args!("({})", self.command.len()))
            .field("stdin", &self.stdin)
            .field("tty", &self.tty)
            .field("tty_size", &self.tty_size)
            .finish()
    }
}

/// A change of the Pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpdateRequest {
    /// `metadata.resourceVersion` of the recorded Pod on which the change is based.
    pub since: Option<String>,
    pub change: Change,
}

/// The change itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// The Pod gets the metadata and specification of this one.
    Pod(Box<Pod>),
    /// The conditions that clients have set.
    Conditions {
        /// The conditions on which the change is based. If they have changed, the request is outdated.
        since: Vec<PodCondition>,
        wanted: Vec<PodCondition>,
    },
}

/// A request from the client to the supervisor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorRequest {
    /// End the Pod gracefully.
    Terminate {
        /// Replaces the Pod's own grace period, and can only be shorter.
        grace: Option<Duration>,
    },
    /// End the Pod immediately.
    Kill,
    /// Delete the Pod. The answer is [`Notice::Done`], as soon as the deletion is recorded.
    Delete {
        /// Replaces the Pod's own grace period, and can only be shorter.
        grace: Option<Duration>,
    },
    /// Send all containers' output and all notices, until the Pod ends.
    Follow,
    /// Attach to a running container.
    Attach(AttachOptions),
    /// Run a process in a running container.
    Exec(ExecOptions),
    /// The size of the client's terminal has changed.
    Resize(TerminalSize),
    /// Report the containers' resource usage.
    Stats,
    /// Change the Pod. The answer is [`Notice::Done`] once the change is recorded, or [`Notice::Outdated`]. Since
    /// version 3.
    Update(UpdateRequest),
    /// Add an ephemeral container to the Pod. The answer is [`Notice::Done`], as soon as the container is recorded.
    /// Since version 3.
    AddEphemeralContainer(Box<EphemeralContainer>),
    /// Connect to a TCP port of the Pod's localhost. [`SupervisorFrame::Stdin`] and standard output carry the bytes.
    /// Since version 4.
    PortForward { port: u16 },
    /// Since version 1: the first request of a client. If there is a common version, another request follows the
    /// answer.
    Hello(Greeting),
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The peer sent an invalid frame.
    #[error("received an unknown frame of kind {kind} and {length} bytes")]
    Malformed {
        /// Kind of the frame.
        kind: u8,
        /// Its length.
        length: usize,
    },
}

/// Listens on a Pod's socket in its run directory. Replaces the socket that a dead supervisor left; the caller owns the
/// Pod.
///
/// # Errors
/// The error from the kernel.
pub fn listen(run_dir: &Path) -> io::Result<blocking::UnixListener> {
    match std::fs::remove_file(run_dir.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    through_descriptor(run_dir, |path| blocking::UnixListener::bind(path))
}

/// Connects to the supervisor of the Pod with this run directory, without waiting: the stream is non-blocking.
///
/// # Errors
/// The error from the kernel: `NotFound` or `ConnectionRefused` if no supervisor runs, `WouldBlock` if one has not
/// accepted connections for a long time.
pub fn connect(run_dir: &Path) -> io::Result<blocking::UnixStream> {
    through_descriptor(run_dir, |path| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(socket.into())
    })
}

/// Accesses a directory through a file descriptor: a socket's path is limited to 107 bytes, and run directories may be
/// deeper.
fn through_descriptor<T>(run_dir: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = std::fs::File::open(run_dir)?;
    work(Path::new(&format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd())))
}

/// Reads the next frame; `None` if the peer closed its side between two frames.
///
/// # Errors
/// See [`FrameError`].
pub async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<SupervisorFrame>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let [first, others @ ..] = &mut header;
    match from.read_exact(std::slice::from_mut(first)).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    from.read_exact(others).await?;
    let (kind, length) = frame_header::decode(header);
    let malformed = FrameError::Malformed { kind, length };
    if length > MAX_FRAME_BYTES {
        return Err(malformed);
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    decode(kind, payload).map(Some).ok_or(malformed)
}

/// Writes a frame.
///
/// # Errors
/// [`FrameError::Io`].
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &SupervisorFrame) -> Result<(), FrameError> {
    let (kind, head, body): (u8, Vec<u8>, &[u8]) = match frame {
        SupervisorFrame::Output {
            container,
            stream,
            bytes,
        } => {
            let [a, b] = container.to_be_bytes();
            (
                KIND_OUTPUT,
                vec![a, b, u8::from(*stream == OutputStream::Stderr)],
                bytes,
            )
        }
        SupervisorFrame::Log(bytes) => (KIND_LOG, Vec::new(), bytes),
        SupervisorFrame::Notice(notice) => (
            KIND_NOTICE,
            serde_json::to_vec(notice).map_err(std::io::Error::other)?,
            &[],
        ),
        SupervisorFrame::Request(request) => (
            KIND_REQUEST,
            serde_json::to_vec(request).map_err(std::io::Error::other)?,
            &[],
        ),
        SupervisorFrame::Stdin(bytes) => (KIND_STDIN, Vec::new(), bytes),
    };
    let length = u32::try_from(head.len() + body.len()).map_err(std::io::Error::other)?;
    let mut start = Vec::with_capacity(HEADER_BYTES + head.len());
    start.extend_from_slice(&frame_header::encode(kind, length));
    start.extend_from_slice(&head);
    to.write_all(&start).await?;
    to.write_all(body).await?;
    Ok(())
}

fn decode(kind: u8, mut payload: Vec<u8>) -> Option<SupervisorFrame> {
    match kind {
        KIND_OUTPUT => {
            let &[a, b, stream] = payload.first_chunk::<3>()?;
            let stream = match stream {
                0 => OutputStream::Stdout,
                1 => OutputStream::Stderr,
                _ => return None,
            };
            payload.drain(..3);
            Some(SupervisorFrame::Output {
                container: u16::from_be_bytes([a, b]),
                stream,
                bytes: payload,
            })
        }
        KIND_LOG => Some(SupervisorFrame::Log(payload)),
        KIND_NOTICE => serde_json::from_slice(&payload).ok().map(SupervisorFrame::Notice),
        KIND_REQUEST => serde_json::from_slice(&payload).ok().map(SupervisorFrame::Request),
        KIND_STDIN => Some(SupervisorFrame::Stdin(payload)),
        _ => None,
    }
}

#[cfg(test)]
mod kept_frames;
#[cfg(test)]
mod tests;
