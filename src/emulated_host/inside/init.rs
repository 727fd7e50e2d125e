//! PID 1 of the emulated host: starts the agent, reaps orphans, and powers the emulated host off when the agent ends.

use crate::emulated_host::INSIDE_DIR;
use crate::stderr::say;
use microkube_base::child;
use microkube_vmm::probe;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long processes have to end on their own: slightly more than a Pod's default grace period.
const TERMINATION_LIMIT: Duration = Duration::from_secs(35);
const KILL_LIMIT: Duration = Duration::from_secs(5);
const STATE_DIR: &str = "/var/lib/microkube";
/// Directories that all commands share. Mounts that one command makes below them are visible to all.
const SHARED: [&str; 5] = ["/proc", "/sys", "/dev", "/run", STATE_DIR];

/// Runs as PID 1; returns only on failure.
pub fn init() -> ExitCode {
    if let Err(error) = run() {
        say!("microkube machine: {error}");
    }
    switch_off();
    ExitCode::FAILURE
}

fn run() -> io::Result<()> {
    // Block the signal before any process starts: it is waited for, never handled.
    let mut child_ended = SigSet::empty();
    child_ended.add(Signal::SIGCHLD);
    child_ended.thread_block()?;
    for dir in SHARED {
        mount(
            None::<&str>,
            dir,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )?;
    }
    // Held until the emulated host is powered off; see `probe::hold` for the reason.
    let _kvm = match probe::hold(Path::new("/dev/kvm")) {
        Ok(held) => Some(held),
        Err(error) => {
            say!("microkube machine: cannot hold KVM open: {error}");
            None
        }
    };
    let agent = child::command(format!("{INSIDE_DIR}/microkube"))
        .args(["machine", "inside-agent"])
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .spawn()?;
    let agent = Pid::from_raw(i32::try_from(agent.id()).map_err(io::Error::other)?);
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, _, _)) if pid == agent => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn switch_off() {
    let everybody = Pid::from_raw(-1);
    // ESRCH: no process is left.
    let _ = kill(everybody, Signal::SIGTERM);
    if !reap_all(TERMINATION_LIMIT) {
        let _ = kill(everybody, Signal::SIGKILL);
        reap_all(KILL_LIMIT);
    }
    nix::unistd::sync();
    // If something still uses it, sync must be enough: the file system has a journal.
    let _ = umount2(STATE_DIR, MntFlags::empty()).or_else(|_| umount2(STATE_DIR, MntFlags::MNT_DETACH));
    nix::unistd::sync();
    // SAFETY: reboot(2) with this command reads no memory.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
}

/// Waits up to `limit` until no process is left.
fn reap_all(limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::ECHILD) => return true,
            Ok(WaitStatus::StillAlive) => {}
            _ => continue,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        wait_for_child(left);
    }
}

/// Waits up to `limit` for SIGCHLD, which is blocked.
fn wait_for_child(limit: Duration) {
    let timeout = libc::timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(limit.subsec_nanos()),
    };
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    // SAFETY: both pointers are valid for reading during the call; a null siginfo is allowed.
    unsafe { libc::sigtimedwait(signals.as_ref(), std::ptr::null_mut(), &raw const timeout) };
}
