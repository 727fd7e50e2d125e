//! A session with a supervisor about one process: its input, output, terminal and end.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context as _;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::detach_keys::DetachKeys;
use crate::cli::print::EXIT_OUTPUT_CLOSED;
use crate::pod::operations::session::{SessionEvent, SessionEvents, SessionInput};
use crate::pod::supervisor_protocol::OutputStream;
use crate::terminal::{self, RawTerminal, TerminalSize};

/// Maximum size of input in one frame, in bytes.
const INPUT_BYTES: usize = 32 << 10;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Ended {
    /// The process has ended.
    Exited(u8),
    /// The user has detached.
    Detached,
    /// The input has ended, while the container continues.
    NoMoreInput,
    /// The output is closed.
    BrokenPipe,
    /// A signal ended this side of the session.
    Signal(u8),
}

impl Ended {
    /// The exit code; `of_process` maps that of the process.
    pub(in crate::cli) fn exit_code(self, of_process: impl FnOnce(u8) -> u8) -> u8 {
        match self {
            Self::Exited(code) => of_process(code),
            Self::Detached | Self::NoMoreInput => 0,
            Self::BrokenPipe => EXIT_OUTPUT_CLOSED,
            Self::Signal(number) => exit_code_of_signal(number),
        }
    }
}

/// The exit code of a command ended by a signal.
pub(in crate::cli) fn exit_code_of_signal(number: u8) -> u8 {
    128_u8.saturating_add(number)
}

/// The local ends of the process's standard streams.
#[derive(Debug)]
pub(in crate::cli) struct Streams<I, O, E> {
    /// `None` if the process gets no input.
    pub(in crate::cli) input: Option<I>,
    pub(in crate::cli) output: O,
    pub(in crate::cli) errors: E,
    /// The local terminal connected to the process's terminal.
    pub(in crate::cli) terminal: Option<SessionTerminal>,
    /// Whether Ctrl-P Ctrl-Q on the terminal ends the session.
    pub(in crate::cli) detachable: bool,
}

/// A terminal in raw mode for the duration of the session.
#[derive(Debug)]
pub(in crate::cli) struct SessionTerminal {
    _raw: RawTerminal,
    terminal: OwnedFd,
}

impl SessionTerminal {
    /// Switches this terminal to raw mode.
    pub(in crate::cli) fn enter(terminal: &impl AsFd) -> std::io::Result<Self> {
        Ok(Self {
            _raw: RawTerminal::of(terminal.as_fd())?,
            terminal: terminal.as_fd().try_clone_to_owned()?,
        })
    }

    pub(in crate::cli) fn size(&self) -> Option<TerminalSize> {
        terminal::size_of(&self.terminal)
    }
}

/// Signals that end this side of the session. While a value exists, they do not kill this process.
#[derive(Debug)]
pub(in crate::cli) struct Endings([Signal; 4]);

impl Endings {
    /// Starts listening now.
    ///
    /// # Errors
    /// If a signal handler cannot be installed.
    pub(in crate::cli) fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot receive signals");
        Ok(Self([
            listen(SignalKind::hangup())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    /// The number of the next signal.
    pub(in crate::cli) async fn next(&mut self) -> u8 {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        let number = tokio::select! {
            _ = hangup.recv() => libc::SIGHUP,
            _ = interrupt.recv() => libc::SIGINT,
            _ = quit.recv() => libc::SIGQUIT,
            _ = terminate.recv() => libc::SIGTERM,
        };
        u8::try_from(number).unwrap_or(0)
    }
}

/// Connects the process to these streams until it has ended. In every case the terminal is restored before this
/// returns.
pub(in crate::cli) async fn run_session<I, O, E>(
    events: &mut SessionEvents,
    mut to: SessionInput,
    streams: Streams<I, O, E>,
    endings: &mut Endings,
) -> anyhow::Result<Ended>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let Streams {
        input,
        mut output,
        mut errors,
        terminal,
        detachable,
    } = streams;
    let resizes = signal(SignalKind::window_change()).context("cannot receive signals")?;

    let (started, is_started) = oneshot::channel();
    let receive = async {
        let mut started = Some(started);
        loop {
            let written = match events.next().await? {
                SessionEvent::Output { stream, bytes } => match stream {
                    OutputStream::Stdout => write_flushed(&mut output, &bytes).await,
                    OutputStream::Stderr => write_flushed(&mut errors, &bytes).await,
                },
                SessionEvent::Started => {
                    if let Some(started) = started.take() {
                        // Fails if the other half has ended, which ends this one too.
                        let _ = started.send(());
                    }
                    Ok(())
                }
                SessionEvent::Exited(exit_code) => return Ok(Ended::Exited(exit_code)),
                SessionEvent::InputEnded => return Ok(Ended::NoMoreInput),
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Ended::BrokenPipe),
                Err(error) => return Err(error).context("cannot write output"),
            }
        }
    };
    let send = async {
        if is_started.await.is_err() {
            return std::future::pending().await;
        }
        let keys = (detachable && terminal.is_some()).then(DetachKeys::default);
        send_input(&mut to, input, terminal.as_ref(), resizes, keys).await
    };
    tokio::select! {
        biased;
        ended = receive => ended,
        detached = send => Ok(detached),
        number = endings.next() => Ok(Ended::Signal(number)),
    }
}

/// Sends input and terminal sizes; returns when the user detaches.
async fn send_input(
    to: &mut SessionInput,
    mut input: Option<impl AsyncRead + Unpin>,
    terminal: Option<&SessionTerminal>,
    mut resizes: Signal,
    mut keys: Option<DetachKeys>,
) -> Ended {
    let mut buffer = vec![0; INPUT_BYTES];
    // The size may have changed since the request.
    let mut size_is_due = terminal.is_some();
    loop {
        let mut detach = false;
        let sent = if std::mem::take(&mut size_is_due) {
            match terminal.and_then(SessionTerminal::size) {
                Some(size) => to.resize(size).await,
                None => Ok(()),
            }
        } else {
            let typed = tokio::select! {
                read = read_some(&mut input, &mut buffer) => {
                    // A closed terminal also ends the input.
                    let bytes = read.ok().and_then(|length| buffer.get(..length)).unwrap_or_default();
                    if bytes.is_empty() {
                        input = None;
                        Some(Vec::new())
                    } else if let Some(keys) = &mut keys {
                        let (passed, found) = keys.filter(bytes);
                        detach = found;
                        (!passed.is_empty()).then_some(passed)
                    } else {
                        Some(bytes.to_vec())
                    }
                }
                Some(()) = resizes.recv() => {
                    size_is_due = terminal.is_some();
                    None
                }
            };
            match typed {
                Some(bytes) => to.write(bytes).await,
                None => Ok(()),
            }
        };
        if sent.is_err() {
            // The other half receives the reason, and how the process ended.
            return std::future::pending().await;
        }
        if detach {
            return Ended::Detached;
        }
    }
}

async fn read_some(input: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match input {
        Some(input) => input.read(buffer).await,
        None => std::future::pending().await,
    }
}

async fn write_flushed(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> std::io::Result<()> {
    to.write_all(bytes).await?;
    to.flush().await
}
