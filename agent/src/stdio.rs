//! The stdio of containers: pipes inside, one vsock stream each towards the host.
//!
//! Pipes, not sockets, because programs open /dev/stdout again, which sockets refuse.

use std::io;
use std::os::fd::OwnedFd;

use microkube_protocol::messages::StreamKind;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_vsock::VsockStream;

use crate::host::{OutputStream, Supervisors, open_stream};
use crate::log;

/// Bytes moved at once. A larger buffer makes no fewer exits: this is the most that one vsock packet carries.
const CHUNK_BYTES: usize = 64 << 10;

/// Capacity asked for each output pipe, bytes; the kernel allocates pages only for what is in it. A container then rarely
/// waits for the host.
const PIPE_BYTES: i32 = 1 << 20;

/// The stdio of a container that is about to start.
#[derive(Debug)]
pub struct Stdio {
    /// The container's ends: stdin (None: /dev/null), stdout, stderr.
    pub container_stdin: Option<OwnedFd>,
    /// See `container_stdin`.
    pub container_stdout: OwnedFd,
    /// See `container_stdin`.
    pub container_stderr: OwnedFd,
    /// The agent's ends.
    pub agent: AgentStdio,
}

/// The agent's ends of a container's stdio, connected with the host.
#[derive(Debug)]
pub struct AgentStdio {
    stdin: Option<(VsockStream, Sender)>,
    stdout: (Receiver, OutputStream),
    stderr: (Receiver, OutputStream),
}

/// The tasks that move a container's output.
#[derive(Debug)]
pub struct OutputPumps {
    stdout: JoinHandle<()>,
    stderr: JoinHandle<()>,
    /// Dropped with the pumps: nobody reads the container's stdin any more.
    _stop_stdin: Option<oneshot::Sender<()>>,
}

impl Stdio {
    /// Makes the pipes and opens the streams.
    pub async fn open(container_id: &str, stdin: bool, supervisors: &Supervisors) -> io::Result<Self> {
        let open_stdin = async {
            match stdin {
                true => open_stream(StreamKind::STREAM_KIND_STDIN, container_id).await.map(Some),
                false => Ok(None),
            }
        };
        let (stdin, stdout, stderr) = tokio::try_join!(
            open_stdin,
            OutputStream::open(StreamKind::STREAM_KIND_STDOUT, container_id, supervisors),
            OutputStream::open(StreamKind::STREAM_KIND_STDERR, container_id, supervisors),
        )?;
        let (container_stdin, stdin) = match stdin {
            Some(stream) => {
                let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
                set_nonblocking(&write)?;
                (Some(read), Some((stream, Sender::from_owned_fd(write)?)))
            }
            None => (None, None),
        };
        let (stdout_receiver, container_stdout) = output_pipe()?;
        let (stderr_receiver, container_stderr) = output_pipe()?;
        Ok(Self {
            container_stdin,
            container_stdout,
            container_stderr,
            agent: AgentStdio {
                stdin,
                stdout: (stdout_receiver, stdout),
                stderr: (stderr_receiver, stderr),
            },
        })
    }
}

impl AgentStdio {
    /// Starts to move data.
    pub fn pump(self) -> OutputPumps {
        let stop_stdin = self.stdin.map(|(stream, pipe)| {
            let (stop, stopped) = oneshot::channel();
            tokio::spawn(async move {
                tokio::select! {
                    () = pump_input(stream, pipe) => {}
                    _ = stopped => {}
                }
            });
            stop
        });
        OutputPumps {
            stdout: tokio::spawn(pump_output(self.stdout.0, self.stdout.1)),
            stderr: tokio::spawn(pump_output(self.stderr.0, self.stderr.1)),
            _stop_stdin: stop_stdin,
        }
    }
}

impl OutputPumps {
    /// Waits until all output has been handed to the host. To be called when the container has ended.
    pub async fn finish(self) {
        for pump in [self.stdout, self.stderr] {
            if let Err(error) = pump.await {
                log::error!("an output stream failed: {error}");
            }
        }
    }
}

fn output_pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Refused above fs.pipe-max-size; the default of 64 KiB works too.
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    set_nonblocking(&read)?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

async fn pump_output(mut pipe: Receiver, mut host: OutputStream) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = tokio::select! {
            read = pipe.read(&mut buffer) => read,
            () = host.taken_over() => {
                host.reconnect().await;
                continue;
            }
        };
        match read {
            Ok(0) => break,
            Ok(length) => host.send(buffer.get(..length).unwrap_or_default()).await,
            Err(error) => {
                log::error!("cannot read a container's output: {error}");
                break;
            }
        }
    }
    host.finish();
}

/// Ends when the host has shut its side down, or when no process of the container has its stdin open any more.
async fn pump_input(mut host: VsockStream, mut pipe: Sender) {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match AsyncReadExt::read(&mut host, &mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(length) => {
                if pipe.write_all(buffer.get(..length).unwrap_or_default()).await.is_err() {
                    return;
                }
            }
        }
    }
}
