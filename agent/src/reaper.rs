//! Collects ended processes: the agent's own children, and the orphans that PID 1 inherits.
//!
//! Every child is started through [`Reaper::spawn`]; nothing else in the agent may wait for processes.

use std::collections::HashMap;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::unistd::Pid;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::lock::lock;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal killed it.
    Signal(u8),
}

/// Keeps track of the agent's children and hands over their exit statuses.
#[derive(Debug, Clone, Default)]
pub struct Reaper {
    children: Arc<Mutex<HashMap<i32, oneshot::Sender<ExitStatus>>>>,
}

impl Reaper {
    /// Starts a child with `start`, which returns its PID and any other value; the receiver gets its exit status.
    ///
    /// The registry stays locked meanwhile, so a child that ends immediately is not mistaken for an orphan.
    pub fn spawn<T>(
        &self,
        start: impl FnOnce() -> io::Result<(Pid, T)>,
    ) -> io::Result<(Pid, T, oneshot::Receiver<ExitStatus>)> {
        let mut children = lock(&self.children);
        let (pid, other) = start()?;
        let (sender, receiver) = oneshot::channel();
        children.insert(pid.as_raw(), sender);
        Ok((pid, other, receiver))
    }

    /// Registers a child that another child has started for the agent (`CLONE_PARENT`, clone(2)). Returns its pidfd and a
    /// receiver of its exit status, or `None` if it has ended already.
    pub fn adopt(&self, pid: Pid) -> io::Result<Option<(OwnedFd, oneshot::Receiver<ExitStatus>)>> {
        let mut children = lock(&self.children);
        // SAFETY: no pointers; it returns a new descriptor or an error.
        let pidfd = match Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) }) {
            Err(Errno::ESRCH) => return Ok(None),
            pidfd => i32::try_from(pidfd?).map_err(io::Error::other)?,
        };
        // SAFETY: the kernel has just created this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let (sender, receiver) = oneshot::channel();
        children.insert(pid.as_raw(), sender);
        Ok(Some((pidfd, receiver)))
    }

    /// Starts listening for SIGCHLD.
    pub fn listen() -> io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Collects forever.
    pub async fn run(self, mut child_ended: Signal) {
        while child_ended.recv().await.is_some() {
            self.collect();
        }
    }

    /// Collects all processes that have ended by now.
    fn collect(&self) {
        loop {
            // The lock is taken before the status: once we hold it, a child that is being started is registered.
            let mut children = lock(&self.children);
            let Some((pid, status)) = wait_any() else { return };
            if let Some(sender) = children.remove(&pid) {
                // The receiver may be gone.
                let _ = sender.send(status);
            }
        }
    }
}

/// Collects one ended process, if there is one.
///
/// Not nix's `waitpid`: if a real-time signal ended the process, it fails after the kernel has forgotten the process.
fn wait_any() -> Option<(i32, ExitStatus)> {
    loop {
        let mut status = 0;
        // SAFETY: status is a valid pointer for the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        match pid {
            0 => return None,
            -1 => match Errno::last() {
                Errno::EINTR => {}
                Errno::ECHILD => return None,
                error => {
                    crate::log::error!("cannot collect ended processes: {error}");
                    return None;
                }
            },
            pid => return Some((pid, exit_status(status))),
        }
    }
}

fn exit_status(status: i32) -> ExitStatus {
    if libc::WIFSIGNALED(status) {
        ExitStatus::Signal(u8::try_from(libc::WTERMSIG(status)).unwrap_or(0))
    } else {
        ExitStatus::Code(u8::try_from(libc::WEXITSTATUS(status)).unwrap_or(u8::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_number_of_a_real_time_signal_is_kept() {
        assert_eq!(exit_status(libc::SIGRTMIN() + 3), ExitStatus::Signal(37));
    }

    /// A single test, because a reaper collects every child of the process and tests share a process.
    #[tokio::test]
    async fn every_child_gets_its_own_status_even_if_it_exits_at_once() {
        let reaper = Reaper::default();
        let signal = Reaper::listen().unwrap();
        tokio::spawn(reaper.clone().run(signal));
        let mut waiting = Vec::new();
        for code in 0..20 {
            let (_, (), status) = reaper
                .spawn(|| {
                    let child = Command::new("/bin/sh").args(["-c", &format!("exit {code}")]).spawn()?;
                    Ok((Pid::from_raw(i32::try_from(child.id()).unwrap()), ()))
                })
                .unwrap();
            waiting.push((code, status));
        }
        let (_, (), killed) = reaper
            .spawn(|| {
                let child = Command::new("/bin/sh").args(["-c", "kill -9 $$"]).spawn()?;
                Ok((Pid::from_raw(i32::try_from(child.id()).unwrap()), ()))
            })
            .unwrap();
        for (code, status) in waiting {
            assert_eq!(status.await.unwrap(), ExitStatus::Code(code));
        }
        assert_eq!(killed.await.unwrap(), ExitStatus::Signal(9));

        let mut child = Command::new("/bin/sh");
        let child = child.args(["-c", "read line; exit 7"]).stdin(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let (_, adopted) = reaper.adopt(pid).unwrap().unwrap();
        drop(child.stdin.take());
        assert_eq!(adopted.await.unwrap(), ExitStatus::Code(7));
        assert!(child.wait().is_err(), "the reaper has collected it");
        assert!(reaper.adopt(pid).unwrap().is_none());
    }
}
