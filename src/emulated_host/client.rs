//! The outer side of a command in the emulated host: forwards standard streams, terminal size and signals, and exits
//! with the command's exit code.

use super::connection::Connection;
use super::location::Location;
use super::protocol::{Command, CommandFrame, CommandRequest, Exit, MAX_DATA, ProtocolError, Version};
use super::{EXIT_MACHINE_FAILED, EmulatedHostError, Result, control, host};
use crate::stderr::report;
use crate::terminal::{RawTerminal, terminal_size};
use microkube_base::causes::with_causes;
use microkube_base::lock::{lock, unpoisoned};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex};

/// Signals that are forwarded to the command.
const FORWARDED: [Signal; 7] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
];

/// Variables that refer to objects outside the emulated host.
const NOT_PASSED: [&str; 11] = [
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "MICROKUBE_LOG_OUTPUT",
    "MICROKUBE_MACHINE_DIR",
    "MICROKUBE_RUN_DIR",
    "MICROKUBE_STATE_DIR",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// A command for the emulated host. It runs as root, with the directory and environment of this process.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Why the emulated host is used; printed if it has to be started.
    pub reason: Option<String>,
}

/// Runs this process's command line in the emulated host, which it starts if needed. `reason` says why the emulated
/// host is used; it is printed only when the emulated host starts.
pub fn run_inside(reason: &str) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program.into_os_string(),
        Err(error) => return failed(&EmulatedHostError::System("find this program", error)),
    };
    let argv = std::iter::once(program).chain(std::env::args_os().skip(1)).collect();
    let request = ExecRequest {
        argv,
        reason: Some(reason.to_owned()),
    };
    match exec(&request) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => failed(&error),
    }
}

fn failed(error: &EmulatedHostError) -> ExitCode {
    report!("error: {}", with_causes(error));
    ExitCode::from(EXIT_MACHINE_FAILED)
}

/// Runs a command in the emulated host with this process's standard streams, terminal and signals, and waits for it.
///
/// Forwarded signals stay blocked in this thread afterwards, because the process should exit with the command's exit
/// code.
pub fn exec(request: &ExecRequest) -> Result<Exit> {
    let location = Location::from_env();
    let (record, _) = host::ensure_running(&location, request.reason.as_deref())?;
    let mut connection = Connection::open(record.port, &control::token(&location)?, record.version()?)?;

    // Block the signals before any thread starts: all threads inherit the mask, and signals only arrive through the
    // descriptor.
    let mut signals = SigSet::empty();
    FORWARDED.into_iter().for_each(|signal| signals.add(signal));
    signals
        .thread_block()
        .map_err(|e| EmulatedHostError::System("block signals", e.into()))?;
    let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
        .map_err(|e| EmulatedHostError::System("receive signals", e.into()))?;

    let raw = RawTerminal::enter();
    let command = Command {
        argv: request.argv.iter().map(|arg| arg.clone().into_vec()).collect(),
        env: environment(),
        cwd: std::env::current_dir()
            .unwrap_or_else(|_| "/".into())
            .into_os_string()
            .into_vec(),
        terminal: raw.as_ref().map(|_| terminal_size()),
    };
    connection
        .send(&CommandFrame::Request(CommandRequest::Exec(command)))
        .map_err(EmulatedHostError::NoAnswer)?;

    let writer = connection.stream.try_clone().map_err(EmulatedHostError::NoAnswer)?;
    let outgoing = Arc::new(Outgoing {
        stream: Mutex::new(writer),
        version: connection.version,
        credit: Mutex::new(0),
        credited: Condvar::new(),
    });
    // Neither thread is joined, because one may block in a read from a terminal forever. The process exits with the
    // command.
    let to = Arc::clone(&outgoing);
    spawn("stdin", move || to.send_stdin())?;
    let to = Arc::clone(&outgoing);
    let on_terminal = raw.is_some();
    spawn("signals", move || to.send_signals(&signals, on_terminal))?;

    let result = receive_output(&mut connection, &outgoing);
    drop(raw);
    result
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread
        .map(drop)
        .map_err(|e| EmulatedHostError::System("start a thread", e))
}

fn environment() -> Vec<(Vec<u8>, Vec<u8>)> {
    std::env::vars_os()
        .filter(|(name, _)| !NOT_PASSED.iter().any(|not| name.as_bytes() == not.as_bytes()))
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .collect()
}

fn receive_output(connection: &mut Connection, outgoing: &Outgoing) -> Result<Exit> {
    let (mut stdout, mut stderr) = (std::io::stdout().lock(), std::io::stderr().lock());
    loop {
        let written = match connection.receive()? {
            CommandFrame::Stdout(data) => stdout.write_all(&data).and_then(|()| stdout.flush()),
            CommandFrame::Stderr(data) => stderr.write_all(&data),
            CommandFrame::StdinCredit(bytes) => {
                outgoing.add_credit(bytes);
                Ok(())
            }
            CommandFrame::Exited(exit) => return Ok(exit),
            CommandFrame::Failed(reason) => return Err(EmulatedHostError::Refused(reason)),
            other => return Err(ProtocolError::Unexpected(other.name()).into()),
        };
        match written {
            Ok(()) => {}
            // The reader is gone: exit like a program that writes to a closed pipe. Closing the connection ends the
            // command.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Ok(Exit::Signal(libc::SIGPIPE as u8));
            }
            Err(error) => return Err(EmulatedHostError::System("write the command's output", error)),
        }
    }
}

/// The sending side of a connection, shared by several threads.
#[derive(Debug)]
struct Outgoing {
    stream: Mutex<TcpStream>,
    version: Version,
    /// How many bytes of standard input may be sent.
    credit: Mutex<usize>,
    credited: Condvar,
}

impl Outgoing {
    fn send(&self, frame: &CommandFrame) -> std::io::Result<()> {
        frame.write(&mut *lock(&self.stream), self.version)
    }

    fn add_credit(&self, bytes: u32) {
        let mut credit = lock(&self.credit);
        *credit = credit.saturating_add(usize::try_from(bytes).unwrap_or(usize::MAX));
        self.credited.notify_one();
    }

    /// Waits for credit. Returns how many bytes may be sent, at most one frame.
    fn take_credit(&self) -> usize {
        let credit = lock(&self.credit);
        let mut credit = unpoisoned(self.credited.wait_while(credit, |credit| *credit == 0));
        let taken = (*credit).min(MAX_DATA);
        *credit -= taken;
        taken
    }

    fn return_credit(&self, bytes: usize) {
        *lock(&self.credit) += bytes;
    }

    /// Sends standard input until it ends. It is only read when the command has granted credit.
    fn send_stdin(&self) {
        let mut stdin = std::io::stdin().lock();
        let mut buffer = vec![0; MAX_DATA];
        loop {
            let taken = self.take_credit();
            let room = buffer.get_mut(..taken).unwrap_or_default();
            let read = match stdin.read(room) {
                Ok(read) => read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {
                    self.return_credit(taken);
                    continue;
                }
                // Standard input is closed, or this process is in the background: treat it as empty.
                Err(_) => 0,
            };
            self.return_credit(taken - read);
            let frame = match buffer.get(..read) {
                Some(data) if read > 0 => CommandFrame::Stdin(data.to_vec()),
                _ => CommandFrame::StdinEnd,
            };
            // The receiver reports a broken connection.
            if self.send(&frame).is_err() || frame == CommandFrame::StdinEnd {
                return;
            }
        }
    }

    fn send_signals(&self, signals: &SignalFd, on_terminal: bool) {
        loop {
            let info = match signals.read_signal() {
                Ok(Some(info)) => info,
                Ok(None) | Err(nix::errno::Errno::EINTR) => continue,
                Err(_) => return,
            };
            let number = u8::try_from(info.ssi_signo).unwrap_or(0);
            let frame = if i32::from(number) == libc::SIGWINCH {
                if !on_terminal {
                    continue;
                }
                CommandFrame::Resized(terminal_size())
            } else {
                // The terminal's driver signals the whole foreground group; kill(2) signals one process.
                CommandFrame::Signal {
                    number,
                    group: info.ssi_code == libc::SI_KERNEL,
                }
            };
            if self.send(&frame).is_err() {
                return;
            }
        }
    }
}
