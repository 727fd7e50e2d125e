//! Runs a command in the emulated host: its process, its pipes or pseudo terminal, and the connection that carries
//! them.
//!
//! The command leads a separate session and process group. When the outer side disappears, the command is ended as by a
//! closing terminal: first by a hang-up, then by force.

use crate::emulated_host::INSIDE_DIR;
use crate::emulated_host::protocol::{
    Command as CommandRequest, CommandFrame, Exit, MAX_DATA, ProtocolError, STDIN_WINDOW, Version,
};
use crate::stderr::say;
use crate::terminal::{TerminalSize, set_terminal_size};
use microkube_base::child;
use microkube_base::lock::lock;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Time from the hang-up to SIGTERM.
const HANG_UP_LIMIT: Duration = Duration::from_secs(5);
/// Time from SIGTERM to SIGKILL: slightly more than a Pod's default grace period.
const TERMINATION_LIMIT: Duration = Duration::from_secs(35);

/// This side's ends of the command's streams.
struct Streams {
    input: File,
    output: File,
    /// `None` with a terminal, which carries both.
    errors: Option<File>,
    /// The terminal's master.
    terminal: Option<File>,
}

/// Sends frames from several threads. After an error, nothing more is sent.
struct Sending {
    stream: Mutex<TcpStream>,
    version: Version,
    broken: AtomicBool,
}

impl Sending {
    fn send(&self, frame: &CommandFrame) {
        let mut stream = lock(&self.stream);
        if !self.broken.load(Ordering::Relaxed) && frame.write(&mut *stream, self.version).is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
    }
}

/// Events that the threads report to the main one.
enum Event {
    Exited(Exit),
    /// The outer side has disappeared.
    HungUp,
}

/// The command's process, which leads a process group. Signalling and reaping exclude each other, so a signal never
/// reaches another process that has reused the PID.
struct Process {
    pid: Pid,
    reaped: Mutex<bool>,
}

impl Process {
    fn signal(&self, signal: Signal, whole_group: bool) {
        let reaped = lock(&self.reaped);
        if !*reaped {
            // ESRCH: it has just ended.
            let _ = if whole_group {
                killpg(self.pid, signal)
            } else {
                kill(self.pid, signal)
            };
        }
    }

    fn wait(&self) -> Exit {
        while let Err(nix::errno::Errno::EINTR) = waitid(Id::Pid(self.pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT)
        {
        }
        let mut reaped = lock(&self.reaped);
        *reaped = true;
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(u8::try_from(code).unwrap_or(u8::MAX)),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as u8),
            // Impossible: no other thread waits for it.
            Ok(_) | Err(_) => Exit::Code(u8::MAX),
        }
    }
}

/// Runs the command to its end. The outer side uses this protocol version.
pub fn run(stream: TcpStream, version: Version, request: CommandRequest) -> io::Result<()> {
    let sending = Arc::new(Sending {
        stream: Mutex::new(stream.try_clone()?),
        version,
        broken: AtomicBool::new(false),
    });
    let (pid, streams) = match start(request) {
        Ok(started) => started,
        Err(error) => {
            sending.send(&CommandFrame::Failed(error.to_string()));
            return Ok(());
        }
    };
    let process = Arc::new(Process {
        pid,
        reaped: Mutex::new(false),
    });
    let result = carry(stream, &sending, &process, streams);
    if result.is_err() {
        // If the command's streams cannot be carried, kill everything it started.
        process.signal(Signal::SIGKILL, true);
        process.wait();
    }
    result
}

/// Returns an error only before a thread waits for the process.
fn carry(stream: TcpStream, sending: &Arc<Sending>, process: &Arc<Process>, streams: Streams) -> io::Result<()> {
    let Streams {
        input,
        output,
        errors,
        terminal,
    } = streams;
    let version = sending.version;
    let (events, received) = mpsc::channel();
    // The reading end sees end-of-file when the command has ended.
    let (ended, ending) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    let ended = Arc::new(ended);

    let mut outputs = Vec::new();
    let on_terminal = terminal.is_some();
    for (file, frame) in [
        (Some(output), CommandFrame::Stdout as fn(Vec<u8>) -> CommandFrame),
        (errors, CommandFrame::Stderr),
    ] {
        let Some(file) = file else { continue };
        let (sending, ended) = (Arc::clone(sending), Arc::clone(&ended));
        outputs.push(spawn("output", move || carry_output(file, &ended, &sending, frame))?);
    }
    // How many bytes of input may still arrive. This bounds the queue for the command.
    let window = Arc::new(AtomicUsize::new(usize::try_from(STDIN_WINDOW).unwrap_or(usize::MAX)));
    let (to_input, for_input) = mpsc::channel();
    let (to, granted) = (Arc::clone(sending), Arc::clone(&window));
    spawn("input", move || {
        carry_input(input, &for_input, &to, &granted, on_terminal)
    })?;
    let (hung_up, target) = (events.clone(), Arc::clone(process));
    spawn("frames", move || {
        if let Err(error) = receive(stream, version, &to_input, &window, &target, terminal.as_ref()) {
            say!("microkube machine: a command's connection: {error}");
        }
        // The receiver is gone if the command has ended first.
        let _ = hung_up.send(Event::HungUp);
    })?;
    let waiting = Arc::clone(process);
    spawn("wait", move || {
        let exit = waiting.wait();
        drop(ending);
        // The receiver waits for this event.
        let _ = events.send(Event::Exited(exit));
    })?;
    sending.send(&CommandFrame::StdinCredit(STDIN_WINDOW));

    let exit = await_end(&received, process);
    for output in outputs {
        // A panic in the thread was already printed.
        let _ = output.join();
    }
    sending.send(&CommandFrame::Exited(exit));
    Ok(())
}

fn spawn<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<std::thread::JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

fn start(request: CommandRequest) -> io::Result<(Pid, Streams)> {
    let mut command = child::command(format!("{INSIDE_DIR}/microkube"));
    command
        .args(["machine", "inside-session", "--cwd"])
        .arg(OsString::from_vec(request.cwd))
        .arg("--");
    command.args(request.argv.into_iter().map(OsString::from_vec));
    command.env_clear();
    let valid = |(name, _): &(Vec<u8>, Vec<u8>)| !name.is_empty() && !name.contains(&b'=');
    let env = request.env.into_iter().filter(valid);
    command.envs(env.map(|(name, value)| (OsString::from_vec(name), OsString::from_vec(value))));
    match request.terminal {
        Some(size) => start_on_terminal(command, size),
        None => start_on_pipes(command),
    }
}

fn start_on_pipes(mut command: Command) -> io::Result<(Pid, Streams)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: setsid(2) is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
    let mut child = command.spawn()?;
    let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes"));
    };
    let file = |fd: OwnedFd| File::from(fd);
    let streams = Streams {
        input: file(input.into()),
        output: file(output.into()),
        errors: Some(file(errors.into())),
        terminal: None,
    };
    Ok((pid_of(child.id())?, streams))
}

fn start_on_terminal(mut command: Command, size: TerminalSize) -> io::Result<(Pid, Streams)> {
    let pty = nix::pty::openpty(None, None)?;
    let (master, slave) = (File::from(pty.master), File::from(pty.slave));
    for file in [&master, &slave] {
        nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    }
    set_terminal_size(&master, size)?;
    command
        .stdin(slave.try_clone()?)
        .stdout(slave.try_clone()?)
        .stderr(slave);
    // SAFETY: setsid(2) and ioctl(2) are async-signal-safe; descriptor 0 is the terminal by then.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    let child = command.spawn()?;
    let streams = Streams {
        input: master.try_clone()?,
        output: master.try_clone()?,
        errors: None,
        terminal: Some(master),
    };
    Ok((pid_of(child.id())?, streams))
}

fn pid_of(pid: u32) -> io::Result<Pid> {
    i32::try_from(pid).map(Pid::from_raw).map_err(io::Error::other)
}

/// Waits for the command to end. Kills it if it still runs some time after the outer side has disappeared.
fn await_end(received: &Receiver<Event>, process: &Process) -> Exit {
    // The sender of `Exited` lives until it has sent that event.
    let mut limits = [(Signal::SIGTERM, HANG_UP_LIMIT), (Signal::SIGKILL, TERMINATION_LIMIT)].into_iter();
    let mut next = None;
    loop {
        let event = match next {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some((_, limit)) => received.recv_timeout(limit),
        };
        match event {
            Ok(Event::Exited(exit)) => return exit,
            Ok(Event::HungUp) => {
                process.signal(Signal::SIGHUP, true);
                process.signal(Signal::SIGCONT, true);
                next = limits.next();
            }
            Err(RecvTimeoutError::Timeout) => {
                if let Some((signal, _)) = next {
                    process.signal(signal, true);
                }
                next = limits.next();
            }
            Err(RecvTimeoutError::Disconnected) => return Exit::Signal(libc::SIGKILL as u8),
        }
    }
}

/// Sends all output up to the end of the stream or, after the command has ended, until no more is available: a
/// background process that inherited the stream does not keep the command alive.
fn carry_output(mut from: File, ended: &OwnedFd, sending: &Sending, frame: fn(Vec<u8>) -> CommandFrame) {
    let mut buffer = vec![0; MAX_DATA];
    loop {
        let mut events = [
            PollFd::new(from.as_fd(), PollFlags::POLLIN),
            PollFd::new(ended.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut events, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        let [readable, over] = events.map(|event| event.any().unwrap_or(false));
        if over && !readable {
            return;
        }
        match from.read(&mut buffer) {
            // A pseudo terminal ends with EIO, a pipe with an empty read.
            Ok(0) => return,
            Ok(read) => sending.send(&frame(buffer.get(..read).unwrap_or_default().to_vec())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Standard input from the outer side.
enum Input {
    Data(Vec<u8>),
    End,
}

fn carry_input(mut to: File, received: &Receiver<Input>, sending: &Sending, window: &AtomicUsize, on_terminal: bool) {
    for input in received {
        match input {
            Input::Data(data) => {
                if to.write_all(&data).is_err() {
                    // The process no longer reads: drop the rest of the input, as with a closed pipe. The client gets
                    // no more credit, so it sends nothing more.
                    return;
                }
                window.fetch_add(data.len(), Ordering::Relaxed);
                sending.send(&CommandFrame::StdinCredit(u32::try_from(data.len()).unwrap_or(0)));
            }
            // A terminal's input has no end; ^D is an ordinary byte that its driver interprets.
            Input::End if on_terminal => {}
            Input::End => return,
        }
    }
}

/// Handles the outer side's frames until it disappears.
fn receive(
    mut stream: TcpStream,
    version: Version,
    to_input: &Sender<Input>,
    window: &AtomicUsize,
    process: &Process,
    terminal: Option<&File>,
) -> io::Result<()> {
    while let Some(frame) = CommandFrame::read(&mut stream, version)? {
        match frame {
            CommandFrame::Stdin(data) => {
                let taken = window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                    left.checked_sub(data.len())
                });
                taken.map_err(|_| io::Error::other(ProtocolError::InputOverrun))?;
                // The receiver is gone if the command has closed its input.
                let _ = to_input.send(Input::Data(data));
            }
            CommandFrame::StdinEnd => drop(to_input.send(Input::End)),
            CommandFrame::Signal { number, group: whole } => {
                let signal = Signal::try_from(i32::from(number)).map_err(io::Error::from)?;
                process.signal(signal, whole);
            }
            CommandFrame::Resized(size) => {
                if let Some(terminal) = terminal {
                    set_terminal_size(terminal, size)?;
                }
            }
            other => return Err(io::Error::other(ProtocolError::Unexpected(other.name()))),
        }
    }
    Ok(())
}
