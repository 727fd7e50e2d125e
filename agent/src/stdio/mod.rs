//! The stdio of containers and of exec processes: pipes or a terminal inside, and one vsock stream each to the host.
//!
//! They are pipes and not sockets because programs open /dev/stdout again, which fails for sockets.

mod container_output;
mod process;
mod source;
mod window;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use microkube_protocol::{DataStream, Stdio};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe2;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio_vsock::VsockStream;

use self::container_output::ContainerOutput;
use self::process::{InputEnd, carry_input, carry_output};
use self::source::Source;
use crate::container::terminal;
use crate::host::{Host, Supervisors, VsockHost};
use crate::log;

/// Requested capacity of each output pipe in bytes; the kernel allocates pages only for what is in it. With it, a
/// container rarely waits for the host.
const PIPE_BYTES: i32 = 1 << 20;

/// The helper's descriptors 0 to 2. A helper with a terminal replaces them with the terminal.
#[derive(Debug)]
pub struct HelperEnds {
    /// /dev/null if there is no stdin.
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// The agent's ends.
#[derive(Debug)]
pub struct AgentEnds {
    stdin: Option<Sender>,
    stdout: Receiver,
    /// `None` for a terminal.
    stderr: Option<Receiver>,
    terminal: Option<TerminalEnds>,
}

#[derive(Debug)]
struct TerminalEnds {
    master: OwnedFd,
    slave: OwnedFd,
}

/// Pipes for a process without a terminal.
pub fn pipes(stdin: bool) -> io::Result<(HelperEnds, AgentEnds)> {
    let (helper_stdin, stdin) = if stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
        set_nonblocking(&write)?;
        (read, Some(Sender::from_owned_fd(write)?))
    } else {
        (null()?, None)
    };
    let (stdout, helper_stdout) = output_pipe()?;
    let (stderr, helper_stderr) = output_pipe()?;
    let helper = HelperEnds {
        stdin: helper_stdin,
        stdout: helper_stdout,
        stderr: helper_stderr,
    };
    let agent = AgentEnds {
        stdin,
        stdout,
        stderr: Some(stderr),
        terminal: None,
    };
    Ok((helper, agent))
}

/// The initial descriptors of a helper that creates its own terminal.
pub fn before_terminal() -> io::Result<HelperEnds> {
    Ok(HelperEnds {
        stdin: null()?,
        stdout: null()?,
        stderr: null()?,
    })
}

impl AgentEnds {
    /// The agent's ends of a terminal, given the master that the helper has sent.
    pub fn of_terminal(master: OwnedFd, stdin: bool) -> io::Result<Self> {
        set_nonblocking(&master)?;
        let slave = terminal::open_slave(&master)?;
        // A terminal can be read and written like a pipe, despite the type's name.
        let stdin = match stdin {
            true => Some(Sender::from_owned_fd_unchecked(master.try_clone()?)?),
            false => None,
        };
        Ok(Self {
            stdin,
            stdout: Receiver::from_owned_fd_unchecked(master.try_clone()?)?,
            stderr: None,
            terminal: Some(TerminalEnds { master, slave }),
        })
    }
}

fn null() -> io::Result<OwnedFd> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
}

fn output_pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    // Fails above fs.pipe-max-size; the default of 64 KiB works as well.
    let _ = fcntl(&read, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
    set_nonblocking(&read)?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The host's side of a container's stdio.
#[derive(Debug)]
pub struct ContainerStreams {
    stdin: Option<ContainerInput>,
    stdout: ContainerOutput<VsockHost>,
    stderr: Option<ContainerOutput<VsockHost>>,
}

impl ContainerStreams {
    /// Opens the streams.
    pub async fn open(container_id: &str, stdin: bool, tty: bool, supervisors: &Supervisors) -> io::Result<Self> {
        let (stdin, stdout, stderr) = tokio::try_join!(
            optional(stdin, ContainerInput::open(container_id, supervisors.host())),
            ContainerOutput::open(container_id, Stdio::Stdout, supervisors.host()),
            optional(
                !tty,
                ContainerOutput::open(container_id, Stdio::Stderr, supervisors.host())
            ),
        )?;
        Ok(Self { stdin, stdout, stderr })
    }

    /// Starts moving data.
    pub fn pump(self, ends: AgentEnds) -> Pumps {
        let (mut pumps, terminal) = Pumps::new(ends.terminal);
        if let (Some(input), Some(pipe)) = (self.stdin, ends.stdin) {
            pumps.input.spawn(input.carry(pipe));
        }
        let source = pumps.source(ends.stdout);
        pumps.output.spawn(async move {
            self.stdout.carry(source).await;
            drop(terminal);
        });
        if let (Some(stderr), Some(pipe)) = (self.stderr, ends.stderr) {
            let source = pumps.source(pipe);
            pumps.output.spawn(stderr.carry(source));
        }
        pumps
    }
}

/// The host's side of the stdio of an exec process.
#[derive(Debug)]
pub struct ProcessStreams {
    host: VsockHost,
    stdin: Option<VsockStream>,
    stdout: VsockStream,
    stderr: Option<VsockStream>,
}

impl ProcessStreams {
    /// Opens the streams.
    pub async fn open(process_id: &str, stdin: bool, tty: bool, supervisors: &Supervisors) -> io::Result<Self> {
        let host = supervisors.host();
        let open = |stdio| {
            let mut host = host.clone();
            let stream = DataStream::Process {
                id: process_id.to_owned(),
                stdio,
            };
            async move { host.open(&stream).await }
        };
        let (stdin, stdout, stderr) = tokio::try_join!(
            optional(stdin, open(Stdio::Stdin)),
            open(Stdio::Stdout),
            optional(!tty, open(Stdio::Stderr)),
        )?;
        Ok(Self {
            host,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Starts moving data.
    pub fn pump(self, ends: AgentEnds) -> Pumps {
        let (mut pumps, terminal) = Pumps::new(ends.terminal);
        let input = match (self.stdin, ends.stdin) {
            (Some(mut stream), Some(mut pipe)) => Some(pumps.input.spawn(async move {
                carry_input(&mut stream, &mut pipe).await;
            })),
            _ => None,
        };
        let (source, host) = (pumps.source(ends.stdout), self.host.clone());
        pumps.output.spawn(async move {
            carry_output(source, self.stdout, host).await;
            // A terminal without a client hangs up: all descriptors of its master are closed.
            if let (Some(terminal), Some(input)) = (terminal, input) {
                input.abort();
                drop(terminal);
            }
        });
        if let (Some(stream), Some(pipe)) = (self.stderr, ends.stderr) {
            let source = pumps.source(pipe);
            pumps.output.spawn(carry_output(source, stream, self.host));
        }
        pumps
    }
}

async fn optional<T>(wanted: bool, open: impl Future<Output = io::Result<T>>) -> io::Result<Option<T>> {
    match wanted {
        true => open.await.map(Some),
        false => Ok(None),
    }
}

/// A container's stdin, which ends when the host ends it, not when the host disappears.
#[derive(Debug)]
struct ContainerInput {
    stream: DataStream,
    host: VsockHost,
    connection: VsockStream,
}

impl ContainerInput {
    async fn open(container_id: &str, mut host: VsockHost) -> io::Result<Self> {
        let stream = DataStream::Container {
            id: container_id.to_owned(),
            stdio: Stdio::Stdin,
            position_bytes: 0,
        };
        let connection = host.open(&stream).await?;
        Ok(Self {
            stream,
            host,
            connection,
        })
    }

    async fn carry(mut self, mut pipe: Sender) {
        loop {
            let taken_over = tokio::select! {
                end = carry_input(&mut self.connection, &mut pipe) => match end {
                    InputEnd::Lost => false,
                    InputEnd::Ended | InputEnd::Unread => return,
                },
                () = self.host.taken_over() => true,
            };
            if !taken_over {
                self.host.taken_over().await;
            }
            loop {
                match self.host.open(&self.stream).await {
                    Ok(connection) => {
                        self.connection = connection;
                        break;
                    }
                    Err(error) => {
                        log::warning!("cannot open {:?}: {error}", self.stream);
                        self.host.taken_over().await;
                    }
                }
            }
        }
    }
}

/// The tasks that move the data of one process. Dropping this ends them.
#[derive(Debug)]
pub struct Pumps {
    output: JoinSet<()>,
    input: JoinSet<()>,
    /// Notified or dropped when the process ends.
    ended: Vec<oneshot::Sender<()>>,
    /// For resizing the terminal, which hangs up when the output ends.
    terminal: Option<Weak<OwnedFd>>,
    /// Keeps a terminal alive while no process has it open.
    slave: Option<OwnedFd>,
}

impl Pumps {
    /// No tasks yet. The terminal's master is returned for the task that reads it.
    fn new(terminal: Option<TerminalEnds>) -> (Self, Option<Arc<OwnedFd>>) {
        let (master, slave) = terminal.map(|ends| (Arc::new(ends.master), ends.slave)).unzip();
        let pumps = Self {
            output: JoinSet::new(),
            input: JoinSet::new(),
            ended: Vec::new(),
            terminal: master.as_ref().map(Arc::downgrade),
            slave,
        };
        (pumps, master)
    }

    fn source(&mut self, pipe: Receiver) -> Source {
        let (ended, told) = oneshot::channel();
        self.ended.push(ended);
        Source::new(pipe, told)
    }

    /// The terminal, while its process runs.
    pub fn terminal(&self) -> Option<Weak<OwnedFd>> {
        self.terminal.clone()
    }

    /// Like [`Self::finish`], but stops when the output is `abandoned`.
    pub async fn finish_unless(self, abandoned: &Notify) {
        tokio::select! {
            () = self.finish() => {}
            () = abandoned.notified() => {}
        }
    }

    /// Waits until all output of the process has been taken, or is no longer needed. Must be called when the process
    /// has ended.
    async fn finish(mut self) {
        self.input.shutdown().await;
        self.slave = None;
        self.ended.clear();
        while let Some(pump) = self.output.join_next().await {
            if let Err(error) = pump {
                log::error!("an output stream failed: {error}");
            }
        }
    }
}
