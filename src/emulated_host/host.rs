//! Starts, stops and finds the emulated host.
//!
//! QEMU itself holds the lock that marks the emulated host as running. Neither PID reuse nor the death of the starting
//! process can therefore make a dead emulated host look alive, or a live one dead.

use super::connection::Connection;
use super::control;
use super::location::{Artefacts, Location};
use super::protocol::{CommandFrame, CommandRequest, Preface, TOKEN_LEN, Version};
use super::qemu::{self, Settings};
use super::{EmulatedHostError, Result};
use crate::state::{self, LockedFile, ProcessIdentity, RecordFormat, lock_exclusive, try_lock_exclusive};
use crate::stderr::report;
use microkube_base::child;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The emulated host boots in 5 to 10 seconds; under load it may take many times that.
const START_LIMIT: Duration = Duration::from_secs(180);
/// In the emulated host, processes have 35 seconds to end on their own.
const STOP_LIMIT: Duration = Duration::from_secs(60);
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// Size of the state disk. It is sparse and only uses the space that was written.
const DISK_BYTES: u64 = 64 << 30;

/// The record of a started emulated host.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// The QEMU process.
    process: ProcessIdentity,
    /// Port on the loopback interface that accepts commands.
    pub port: u16,
    memory_mib: u64,
    /// Start time, in seconds since 1970.
    started_at_s: i64,
    /// Whether it has answered once. If not, its starter has died or is still waiting.
    ready: bool,
    /// Number of the protocol [`Version`] that it supports.
    #[serde(default = "first_version")]
    protocol: u16,
}

fn first_version() -> u16 {
    Version::One.number()
}

impl Record {
    /// The protocol version for this emulated host.
    pub fn version(&self) -> Result<Version> {
        Version::of(self.protocol).ok_or(EmulatedHostError::OtherVersion)
    }
}

impl RecordFormat for Record {
    const VERSION: u32 = 1;
}

/// State of the emulated host.
#[derive(Debug)]
pub enum Status {
    Stopped,
    /// QEMU is running, but the emulated host has not answered yet.
    Starting,
    Running {
        pid: i32,
        uptime: Duration,
        memory_mib: u64,
        resident_mib: u64,
    },
}

/// Checks whether the emulated host can be started here, without starting it. Returns a description of what it would
/// use.
pub fn check() -> Result<String> {
    let qemu = qemu::find()?;
    let artefacts = Artefacts::find()?;
    Ok(format!("{} with {}", qemu.display(), artefacts.kernel.display()))
}

pub fn status() -> Result<Status> {
    let location = Location::from_env();
    if !location.exists() || !is_alive(&location)? {
        return Ok(Status::Stopped);
    }
    let Some(record) = read_record(&location)?.filter(|record| record.ready) else {
        return Ok(Status::Starting);
    };
    let pid = record.process.pid();
    let uptime_s = jiff::Timestamp::now().as_second().saturating_sub(record.started_at_s);
    Ok(Status::Running {
        pid,
        uptime: Duration::from_secs(u64::try_from(uptime_s).unwrap_or(0)),
        memory_mib: record.memory_mib,
        resident_mib: resident_mib(pid).unwrap_or(0),
    })
}

/// Whether the emulated host was ever started here. If not, there are no Pods in it.
pub fn was_ever_started() -> bool {
    Location::from_env().disk().exists()
}

/// Starts the emulated host; returns whether it was stopped before.
pub fn start() -> Result<bool> {
    ensure_running(&Location::from_env(), None).map(|(_, started)| started)
}

/// Starts the emulated host if it is not running, and reports that on standard error, after `reason`, because it takes
/// seconds.
pub fn ensure_running(location: &Location, reason: Option<&str>) -> Result<(Record, bool)> {
    location.create()?;
    let _change = lock(&location.change_lock())?;
    if is_alive(location)? {
        if let Some(record) = read_record(location)?.filter(|record| record.ready) {
            return Ok((record, false));
        }
        // The process that started it died before it was ready. No other process can be starting it, because this one
        // holds the lock.
        kill(location)?;
    }
    let qemu = qemu::find()?;
    let artefacts = Artefacts::find()?;
    make_disk(&location.disk())?;
    let began = Instant::now();
    if let Some(reason) = reason {
        report!("{reason}; Pods run in the emulated host, which is slow");
    }
    report!("starting the emulated host (about 8 s)");
    let record = boot(&qemu, artefacts, location)?;
    report!("the emulated host is up after {:.1} s", began.elapsed().as_secs_f32());
    Ok((record, true))
}

/// Stops the emulated host, cleanly if it still answers; returns whether it was running.
pub fn stop() -> Result<bool> {
    let location = Location::from_env();
    if !location.exists() {
        return Ok(false);
    }
    let _change = lock(&location.change_lock())?;
    if !is_alive(&location)? {
        return Ok(false);
    }
    let record = read_record(&location)?.filter(|record| record.ready);
    let asked = record
        .as_ref()
        .is_some_and(|record| shut_down(&location, record).is_ok());
    let ended = asked && record.is_some_and(|record| record.process.wait(STOP_LIMIT).unwrap_or(false));
    if !ended {
        report!("the emulated host did not shut down in time; killing it");
        kill(&location)?;
    }
    for file in [location.record(), location.token(), location.qemu_pid()] {
        // The files may already be gone.
        let _ = std::fs::remove_file(file);
    }
    control::discard(&location);
    Ok(true)
}

fn shut_down(location: &Location, record: &Record) -> Result<()> {
    let mut connection = Connection::open(record.port, &control::token(location)?, record.version()?)?;
    connection
        .send(&CommandFrame::Request(CommandRequest::Shutdown))
        .map_err(EmulatedHostError::NoAnswer)?;
    match connection.receive()? {
        CommandFrame::Exited(_) => Ok(()),
        other => Err(super::protocol::ProtocolError::Unexpected(other.name()).into()),
    }
}

fn boot(qemu: &Path, artefacts: Artefacts, location: &Location) -> Result<Record> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(|e| EmulatedHostError::System("listen on loopback", e))?;
    let ready_port = listener
        .local_addr()
        .map_err(|e| EmulatedHostError::System("listen on loopback", e))?
        .port();
    let token = control::create(location, ready_port)?;
    let memory_mib = qemu::memory_mib();
    let port = free_port()?;
    let settings = Settings {
        artefacts,
        location: location.clone(),
        memory_mib,
        port,
    };
    let mut child = spawn(qemu, &settings)?;
    let result = i32::try_from(child.id())
        .ok()
        .and_then(ProcessIdentity::of)
        .ok_or_else(|| died(location))
        .map(|process| Record {
            process,
            port,
            memory_mib,
            started_at_s: jiff::Timestamp::now().as_second(),
            ready: false,
            protocol: Version::NEWEST.number(),
        })
        .and_then(|mut record| {
            write_record(location, &record)?;
            wait_until_ready(&listener, &mut child, &token, location)?;
            record.ready = true;
            write_record(location, &record)?;
            Ok(record)
        });
    if result.is_err() {
        // The process may already be dead.
        let _ = child.kill();
        let _ = child.wait();
    }
    control::discard(location);
    result
}

/// Finds a free port on the loopback interface. If another process takes it before QEMU, QEMU fails with a clear
/// message on the console.
fn free_port() -> Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|e| EmulatedHostError::System("find a free port", e))
}

fn spawn(qemu: &Path, settings: &Settings) -> Result<Child> {
    let location = &settings.location;
    let alive = try_lock_exclusive(&location.alive_lock()).map_err(record_error)?;
    let mut alive: LockedFile = alive.ok_or(EmulatedHostError::StillRunning)?;
    let console_path = location.console();
    let file_error = |source| EmulatedHostError::File {
        action: "write",
        path: console_path.clone(),
        source,
    };
    let console = std::fs::File::create(&console_path).map_err(file_error)?;
    let errors = console.try_clone().map_err(file_error)?;
    let alive_fd = alive.as_fd().as_raw_fd();
    let mut command = Command::new(qemu);
    child::pass_on(&mut command, &[alive_fd]);
    command.args(qemu::arguments(settings)).current_dir("/");
    command.stdin(Stdio::null()).stdout(console).stderr(errors);
    // SAFETY: between fork and exec only setsid(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            // Detach from the terminal's signals.
            if libc::setsid() < 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command
        .spawn()
        .map_err(|e| EmulatedHostError::System("start QEMU", e))?;
    alive.leave_to_child();
    Ok(child)
}

/// Waits until the emulated host connects, or ends.
fn wait_until_ready(
    listener: &TcpListener,
    child: &mut Child,
    token: &[u8; TOKEN_LEN],
    location: &Location,
) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    let pidfd =
        crate::state::ProcessIdentity::of(i32::try_from(child.id()).unwrap_or(0)).ok_or_else(|| died(location))?;
    let exited = pidfd
        .exit_event()
        .map_err(|e| EmulatedHostError::System("watch QEMU", std::io::Error::other(e)))?;
    let Some(exited) = exited else {
        return Err(died(location));
    };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut events = [
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(exited.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut events, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) => {
                let (console, tail) = (location.console(), console_tail(location));
                return Err(EmulatedHostError::NotReady {
                    seconds: START_LIMIT.as_secs(),
                    console,
                    tail,
                });
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(EmulatedHostError::System("wait for the emulated host", errno.into())),
        }
        let [connection, exit] = events.map(|event| event.any().unwrap_or(false));
        if exit {
            return Err(died(location));
        }
        // Any local process can connect, so the secret must match.
        if connection && accept_ready(listener, token) {
            return Ok(());
        }
    }
}

fn accept_ready(listener: &TcpListener, token: &[u8; TOKEN_LEN]) -> bool {
    let Ok((mut stream, _)) = listener.accept() else {
        return false;
    };
    let mut sent = [0; TOKEN_LEN];
    stream.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && stream.read_exact(&mut sent).is_ok()
        && Preface {
            version: Version::NEWEST,
            token: sent,
        }
        .matches(token)
}

fn died(location: &Location) -> EmulatedHostError {
    EmulatedHostError::DiedStarting {
        console: location.console(),
        tail: console_tail(location),
    }
}

/// The end of the console, without QEMU's harmless warnings about features that it does not emulate.
fn console_tail(location: &Location) -> String {
    const TAIL_BYTES: u64 = 4096;
    let mut bytes = Vec::new();
    if let Ok(mut file) = std::fs::File::open(location.console()) {
        let len = file.metadata().map(|metadata| metadata.len()).unwrap_or(0);
        // If the tail cannot be read, it is empty; the main error is reported anyway.
        let _ = file.seek(SeekFrom::Start(len.saturating_sub(TAIL_BYTES)));
        let _ = file.take(TAIL_BYTES).read_to_end(&mut bytes);
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines = text
        .lines()
        .filter(|line| !line.contains("TCG doesn't support requested feature") && !line.is_empty());
    lines
        .map(|line| line.replace(|c: char| c.is_control(), ""))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Creates the state disk if there is none. The file is complete or missing, whichever process dies.
fn make_disk(path: &Path) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension("new");
    let fail = |reason: String| EmulatedHostError::Disk {
        path: path.to_owned(),
        reason,
    };
    let mut options = std::fs::OpenOptions::new();
    // Objects are on it, Secrets among them.
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&unfinished).map_err(|e| fail(e.to_string()))?;
    file.set_len(DISK_BYTES).map_err(|e| fail(e.to_string()))?;
    let output = child::command("mke2fs")
        .args([
            "-q",
            "-t",
            "ext4",
            "-F",
            "-m",
            "0",
            "-E",
            "lazy_itable_init=1,lazy_journal_init=1,nodiscard",
        ])
        .arg(&unfinished)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            fail(format!(
                "cannot run mke2fs: {e}; install it with `apt-get install e2fsprogs`"
            ))
        })?;
    if !output.status.success() {
        return Err(fail(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
    }
    std::fs::rename(&unfinished, path).map_err(|e| fail(e.to_string()))
}

fn is_alive(location: &Location) -> Result<bool> {
    Ok(try_lock_exclusive(&location.alive_lock())
        .map_err(record_error)?
        .is_none())
}

fn kill(location: &Location) -> Result<()> {
    let from_record = read_record(location)?.map(|record| record.process);
    let from_qemu = || {
        let pid = std::fs::read_to_string(location.qemu_pid()).ok()?.trim().parse().ok()?;
        ProcessIdentity::of(pid)
    };
    for process in [from_record, from_qemu()].into_iter().flatten() {
        if is_alive(location)? && is_qemu(process.pid()) {
            process
                .kill(KILL_LIMIT)
                .map_err(|e| EmulatedHostError::System("kill QEMU", std::io::Error::other(e)))?;
        }
    }
    Ok(())
}

/// The PID file of an earlier emulated host may contain the PID of another process.
fn is_qemu(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline"))
        .is_ok_and(|cmdline| cmdline.windows(17).any(|window| window == b"microkube-machine"))
}

fn resident_mib(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim()
        .strip_suffix(" kB")?
        .parse::<u64>()
        .ok()
        .map(|kib| kib / 1024)
}

fn lock(path: &Path) -> Result<LockedFile> {
    lock_exclusive(path).map_err(record_error)
}

fn read_record(location: &Location) -> Result<Option<Record>> {
    state::read_record(&location.record()).map_err(record_error)
}

fn write_record(location: &Location, record: &Record) -> Result<()> {
    state::replace_record(&location.record(), record).map_err(record_error)
}

fn record_error(error: crate::state::RecordError) -> EmulatedHostError {
    EmulatedHostError::System(
        "read or write the emulated host's records",
        std::io::Error::other(error),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record as written by builds without versions.
    const VERSION_0: &str = r#"{
        "process": { "pid": 4100003, "start_time_ticks": 123456, "boot_id": "6f1c3b1e-52a4-4c92-8b1b-2c1c6f7f3e11" },
        "port": 40123, "memory_mib": 8192, "started_at_s": 1700000000, "ready": true
    }"#;

    #[test]
    fn records_of_all_versions_are_read_and_newer_ones_refused() {
        let dir = tempfile::tempdir().unwrap();
        let location = Location::new(&crate::state::Paths::new(
            dir.path().join("state"),
            dir.path().join("run"),
        ));
        location.create().unwrap();
        let version = |number: u32| VERSION_0.replacen('{', &format!("{{\"version\": {number}, \"protocol\": 1,"), 1);
        for text in [VERSION_0.to_owned(), version(1)] {
            std::fs::write(location.record(), text).unwrap();
            let record = read_record(&location).unwrap().unwrap();
            assert_eq!((record.port, record.memory_mib, record.ready), (40123, 8192, true));
            assert_eq!(record.version().unwrap(), Version::One);
            write_record(&location, &record).unwrap();
            let written: serde_json::Value =
                serde_json::from_slice(&std::fs::read(location.record()).unwrap()).unwrap();
            assert_eq!(written, serde_json::from_str::<serde_json::Value>(&version(1)).unwrap());
        }
        std::fs::write(location.record(), version(2)).unwrap();
        let error = microkube_base::causes::with_causes(&read_record(&location).unwrap_err());
        let said = format!(
            "cannot read or write the emulated host's records: {} was written by a newer microkube, in format version 2; this one reads \
             versions up to 1",
            location.record().display()
        );
        assert_eq!(error, said);
    }
}
