//! Process identities that are safe against PID reuse.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde::{Deserialize, Serialize};

/// A process, identified by its PID, its start time (field 22 of `/proc/PID/stat`, in clock ticks since boot; proc(5))
/// and the boot in which it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    pid: i32,
    start_time_ticks: u64,
    boot_id: String,
}

/// A process could not be examined or signalled.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} process {pid}")]
pub struct ProcessError {
    action: &'static str,
    pid: i32,
    #[source]
    source: std::io::Error,
}

impl ProcessIdentity {
    /// The process with this PID; `None` if there is none.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let (process, has_ended) = Self::with_state(pid).ok()??;
        (!has_ended).then_some(process)
    }

    /// The process with this PID, and whether its main thread has ended; other threads may still run. `None` only if
    /// there is no such process.
    fn with_state(pid: i32) -> std::io::Result<Option<(Self, bool)>> {
        let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            // The process ended between open and read.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let (start_time_ticks, has_ended) = start_time_ticks(&stat).ok_or(std::io::ErrorKind::InvalidData)?;
        let process = Self {
            pid,
            start_time_ticks,
            boot_id: boot_id.trim().to_owned(),
        };
        Ok(Some((process, has_ended)))
    }

    #[must_use]
    pub fn current() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether the process is running. A zombie is not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }

    /// Kills the process with SIGKILL and waits up to `timeout` for it to end. Returns whether it has.
    ///
    /// # Errors
    /// [`ProcessError`] if the kernel returns an error.
    pub fn kill(&self, timeout: Duration) -> Result<bool, ProcessError> {
        let Some(pidfd) = self.exit_event()? else {
            return Ok(true);
        };
        match pidfd_send_sigkill(&pidfd) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(true),
            result => result.map_err(|source| self.error("kill", source))?,
        }
        self.wait_for(&pidfd, timeout)
    }

    /// Waits up to `timeout` for the process to end. Returns whether it has.
    ///
    /// # Errors
    /// [`ProcessError`] if the kernel returns an error.
    pub fn wait(&self, timeout: Duration) -> Result<bool, ProcessError> {
        match self.exit_event()? {
            Some(pidfd) => self.wait_for(&pidfd, timeout),
            None => Ok(true),
        }
    }

    /// A descriptor of exactly this process that becomes readable when it ends; `None` if it has ended.
    ///
    /// # Errors
    /// [`ProcessError`] if the kernel returns an error.
    pub fn exit_event(&self) -> Result<Option<OwnedFd>, ProcessError> {
        let pidfd = match pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            // EINVAL, or ENOENT in newer kernels: the PID belongs to no process, because it was just reaped or now
            // belongs to a thread.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL | libc::ENOENT)) => {
                return Ok(None);
            }
            Err(error) => return Err(self.error("open", error)),
        };
        // Compare only now: the descriptor pins whichever process has the PID. Ignore the state: the main thread may
        // end before the others.
        let found = Self::with_state(self.pid).map_err(|source| self.error("look at", source))?;
        let is_this = found.is_some_and(|(process, _)| process == *self);
        Ok(match is_this && !self.wait_for(&pidfd, Duration::ZERO)? {
            true => Some(pidfd),
            false => None,
        })
    }

    fn wait_for(&self, pidfd: &OwnedFd, timeout: Duration) -> Result<bool, ProcessError> {
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(std::os::fd::AsFd::as_fd(pidfd), PollFlags::POLLIN)];
        loop {
            match nix::poll::poll(&mut fds, timeout) {
                Ok(ready) => return Ok(ready > 0),
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(self.error("wait for", errno.into())),
            }
        }
    }

    fn error(&self, action: &'static str, source: std::io::Error) -> ProcessError {
        ProcessError {
            action,
            pid: self.pid,
            source,
        }
    }
}

fn pidfd_open(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two integers and accesses no memory of this process.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let fd = i32::try_from(fd).map_err(std::io::Error::other)?;
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor, so it is open and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn pidfd_send_sigkill(pidfd: &OwnedFd) -> std::io::Result<()> {
    // SAFETY: with a null siginfo, pidfd_send_signal(2) behaves like kill(2); the descriptor is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Field 22 of `/proc/PID/stat`, and whether the main thread has ended (state Z or X). The second field, the command's
/// name in parentheses, may contain any characters.
fn start_time_ticks(stat: &str) -> Option<(u64, bool)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let has_ended = matches!(fields.next()?, "Z" | "X");
    Some((fields.nth(18)?.parse().ok()?, has_ended))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_thread_counts_as_an_ended_process() {
        std::thread::spawn(|| {
            // SAFETY: gettid(2) takes no arguments and cannot fail.
            let thread = ProcessIdentity::of(unsafe { libc::gettid() }).unwrap();
            assert!(thread.exit_event().unwrap().is_none());
            assert!(thread.kill(Duration::ZERO).unwrap());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn the_start_time_is_parsed_after_a_name_with_spaces_and_parentheses() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194560 10 0 0 0 1 2 3 4 20 0 1 0 987654 1000 1 18446744073709551615";
        assert_eq!(start_time_ticks(stat), Some((987_654, false)));
        assert_eq!(start_time_ticks(&stat.replace(" S ", " Z ")), Some((987_654, true)));
        assert_eq!(start_time_ticks("nonsense"), None);
    }

    #[test]
    fn a_process_whose_main_thread_has_exited_is_killed() {
        // SAFETY: the child only starts a thread, which waits, and ends its main thread; it never returns here.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(1000)));
            // SAFETY: exit(2) ends only this thread.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            std::process::abort();
        }
        let (identity, _) = ProcessIdentity::with_state(pid).unwrap().expect("it is not reaped yet");
        while identity.is_alive() {
            std::thread::yield_now();
        }
        assert!(identity.exit_event().unwrap().is_some(), "its other thread still runs");
        assert!(identity.kill(Duration::from_secs(10)).unwrap());
        assert!(identity.exit_event().unwrap().is_none());
        nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
    }

    #[test]
    fn a_killed_process_is_no_longer_alive_once_reaped() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(identity.is_alive());
        assert!(identity.kill(Duration::from_secs(10)).unwrap());
        child.wait().unwrap();
        assert!(!identity.is_alive());
        assert!(
            identity.kill(Duration::from_secs(10)).unwrap(),
            "killing it again is not an error"
        );
    }
}
