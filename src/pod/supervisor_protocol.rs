//! What the supervisor of a Pod and a command line say to each other over a unix socket: the one that the foreground `run`
//! hands down, or a connection to `supervisor.sock` in the Pod's run directory.
//!
//! A frame is a header (`frame_header`) and its payload. Input and output travel raw, everything else as JSON. A connection carries one
//! conversation: after [`SupervisorRequest::Exec`] or [`SupervisorRequest::Attach`] it ends with [`Notice::Exited`], [`Notice::InputEnded`] or
//! [`Notice::Refused`].
//!
//! The two may be of different builds, because a supervisor lives as long as its Pod. A command line begins with [`SupervisorRequest::Hello`],
//! the supervisor answers with [`Notice::Hello`], and they speak the latest version that both know ([`VERSIONS`]). A supervisor of version 0
//! does not know the greeting and hangs up: the command line connects again without it. A command line that does not greet speaks version 0. The
//! supervisor of a Pod in the foreground and its command line are of one build, and do not greet.
//!
//! A change that readers may ignore (a new field) keeps the version. A change that they must understand (a new request, notice or kind of frame,
//! another framing) raises it, and is not sent in older versions. Whatever the version, a Pod of the build before answers `exec`, `attach`,
//! `logs`, `top` and `delete`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net as blocking;
use std::path::Path;
use std::time::Duration;

pub use microkube_protocol::Versions;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::timings::Stage;
use crate::build_id::build;
use crate::frame_header::{self, HEADER_BYTES};
pub use crate::terminal::TerminalSize;

/// The supervisor's socket in the run directory of its Pod.
pub const SOCKET_FILE: &str = "supervisor.sock";

/// Longest frame either side accepts, bytes of payload.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// The versions of this protocol that this build speaks. `docs/decisions/versions.md` says when they are raised.
pub const VERSIONS: Versions = Versions { oldest: 0, newest: 1 };

const KIND_OUTPUT: u8 = 1;
const KIND_LOG: u8 = 2;
const KIND_NOTICE: u8 = 3;
const KIND_REQUEST: u8 = 4;
const KIND_STDIN: u8 = 5;

/// One of a container's two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A message between supervisor and client.
#[derive(Debug, Clone, PartialEq)]
pub enum SupervisorFrame {
    /// Bytes a container wrote. An empty payload says that the stream has ended.
    Output {
        /// Index of the container in the manifest; 0 after [`SupervisorRequest::Exec`] and [`SupervisorRequest::Attach`].
        container: u16,
        /// Which of its streams.
        stream: OutputStream,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Bytes of the guest's console and kernel log, for `--debug`.
    Log(Vec<u8>),
    /// Supervisor to client.
    Notice(Notice),
    /// Client to supervisor.
    Request(SupervisorRequest),
    /// Client to supervisor: standard input of what [`SupervisorRequest::Exec`] or [`SupervisorRequest::Attach`] named. Empty: its end.
    Stdin(Vec<u8>),
}

/// The build of a peer, and the versions it speaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The oldest version of this protocol.
    pub oldest: u32,
    /// The latest.
    pub newest: u32,
    /// The build, for people.
    pub build: String,
}

impl Greeting {
    /// Of this process.
    #[must_use]
    pub fn own() -> Self {
        Self {
            oldest: VERSIONS.oldest,
            newest: VERSIONS.newest,
            build: build().to_owned(),
        }
    }

    /// What it speaks.
    #[must_use]
    pub fn versions(&self) -> Versions {
        Versions {
            oldest: self.oldest,
            newest: self.newest,
        }
    }
}

/// What the supervisor tells its client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// What was asked for is done: [`SupervisorRequest::Delete`].
    Done,
    /// Answers [`SupervisorRequest::Attach`]: output follows from here on.
    Attached,
    /// Answers [`SupervisorRequest::Exec`]: the command runs.
    Started,
    /// The command, or the container, has ended, and all its output was sent. The last frame of its conversation.
    Exited {
        /// Exit code as a shell would give it.
        exit_code: u8,
    },
    /// The client's input has ended, and the input of the container stays open. The last frame of its conversation.
    InputEnded,
    /// What was asked for is not possible. The last frame of its conversation.
    Refused {
        /// Why.
        message: String,
    },
    /// Answers [`SupervisorRequest::Stats`]: the containers that run.
    Stats(Vec<ContainerUsage>),
    /// Answers [`SupervisorRequest::Hello`]. From version 1 on.
    Hello(Greeting),
    /// What happens to the Pod. On the wire these are variants like the others.
    #[serde(untagged)]
    Pod(PodNotice),
}

impl From<PodNotice> for SupervisorFrame {
    fn from(notice: PodNotice) -> Self {
        Self::Notice(Notice::Pod(notice))
    }
}

/// What happens to a Pod, for the command line that follows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PodNotice {
    /// Something the user should know while the Pod goes on.
    Warning(String),
    /// An image is being pulled.
    PullProgress {
        /// The image, as the manifest names it.
        image: String,
        /// Bytes received so far.
        received_bytes: u64,
        /// Bytes in all, where known.
        total_bytes: Option<u64>,
    },
    /// An image is there.
    Pulled {
        /// The image, as the manifest names it.
        image: String,
    },
    /// All containers were started.
    Running {
        /// Address of the Pod.
        pod_ip: String,
        /// How long each stage of the start took.
        stages: Vec<Stage>,
    },
    /// A container ended.
    ContainerEnded {
        /// Index of the container in the manifest.
        container: u16,
        /// Exit code as a shell would give it.
        exit_code: u8,
        /// `Completed`, `Error`, `OOMKilled`, …
        reason: String,
        /// More, where there is more to say.
        message: Option<String>,
    },
    /// The Pod is over and everything on the host released. The last frame.
    Finished {
        /// What `run` exits with.
        exit_code: u8,
        /// Why the Pod could not be run to its end, if so.
        error: Option<String>,
    },
}

/// What a container uses at this moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// Name in the manifest.
    pub container: String,
    /// Processor time a second, in nanoseconds: 1000000000 is one processor.
    pub cpu_nanocores: u64,
    /// Memory in use without what the kernel could drop at once, as the kubelet's working set.
    pub memory_bytes: u64,
}

/// How a client is connected to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachOptions {
    /// Name of the container in the manifest.
    pub container: String,
    /// Pass input to the container: [`SupervisorFrame::Stdin`] follows.
    pub stdin: bool,
    /// Size of the client's terminal, if there is one.
    pub tty_size: Option<TerminalSize>,
}

/// A further process in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecOptions {
    /// Name of the container in the manifest.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// The process gets input: [`SupervisorFrame::Stdin`] follows.
    pub stdin: bool,
    /// The process gets a terminal. All its output is then standard output.
    pub tty: bool,
    /// Size of that terminal.
    pub tty_size: Option<TerminalSize>,
}

/// What the client asks of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SupervisorRequest {
    /// End the Pod gracefully.
    Terminate {
        /// Instead of the Pod's own grace period; it can only be shorter.
        grace: Option<Duration>,
    },
    /// End the Pod at once.
    Kill,
    /// Delete the Pod. [`Notice::Done`] answers as soon as the record says that it is being deleted.
    Delete {
        /// Instead of the Pod's own grace period; it can only be shorter.
        grace: Option<Duration>,
    },
    /// Send all containers' output and all notices, to the Pod's end.
    Follow,
    /// Connect to a running container.
    Attach(AttachOptions),
    /// Run a further process in a running container.
    Exec(ExecOptions),
    /// The client's terminal has another size.
    Resize(TerminalSize),
    /// What the containers use.
    Stats,
    /// The first request of a client. If there is a version in common, another request follows the answer. From version 1 on.
    Hello(Greeting),
}

/// A frame could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The peer sent a frame that is not understood.
    #[error("received a frame of kind {kind} and {length} bytes that is not understood")]
    Malformed {
        /// Kind of the frame.
        kind: u8,
        /// Its length.
        length: usize,
    },
}

/// Listens on the socket of the Pod whose run directory this is. A socket that a dead supervisor left is replaced; the caller
/// owns the Pod.
///
/// # Errors
/// What the kernel says.
pub fn listen(run_dir: &Path) -> io::Result<blocking::UnixListener> {
    match std::fs::remove_file(run_dir.join(SOCKET_FILE)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    through_descriptor(run_dir, |path| blocking::UnixListener::bind(path))
}

/// Connects to the supervisor of the Pod whose run directory this is, without waiting: the stream is non-blocking.
///
/// # Errors
/// What the kernel says: `NotFound` or `ConnectionRefused` where no supervisor runs, `WouldBlock` where one has not accepted connections for
/// long.
pub fn connect(run_dir: &Path) -> io::Result<blocking::UnixStream> {
    through_descriptor(run_dir, |path| {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
        socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(socket.into())
    })
}

/// The path of a socket may have 107 bytes, and directories' paths are longer: the kernel gets it by a descriptor.
fn through_descriptor<T>(run_dir: &Path, work: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let dir = std::fs::File::open(run_dir)?;
    work(Path::new(&format!("/proc/self/fd/{}/{SOCKET_FILE}", dir.as_raw_fd())))
}

/// Reads the next frame; `None` when the peer has closed its side between two frames.
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
