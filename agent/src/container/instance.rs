//! A container that was started, until everything of it is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use anyhow::{Context, Result, anyhow};
use nix::unistd::Pid;
use tokio::sync::{Notify, watch};

use super::cgroup::{Cgroup, Usage};
use super::spawn;
use super::spec::ProcessSpec;
use super::terminal::Terminal;
use super::user::User;
use crate::reaper::ExitStatus;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerExit {
    /// How its PID 1 ended.
    pub status: ExitStatus,
    /// Whether that was for want of memory.
    pub oom_killed: bool,
    /// What it left in the file for its last words.
    pub termination_message: Vec<u8>,
    /// CLOCK_BOOTTIME.
    pub finished_boottime_ns: u64,
}

/// How far a container is.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Running,
    /// Its processes have ended; its output may be on its way.
    Ended,
    /// The host has its output.
    Done(Arc<ContainerExit>),
}

/// A container that was started.
#[derive(Debug)]
pub struct Container {
    pub(super) id: String,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) started_boottime_ns: u64,
    pub(super) terminal: Terminal,
    pub(super) stage: watch::Receiver<Stage>,
    /// Its watcher ends when everything of it is gone.
    pub(super) watched: watch::Receiver<()>,
    pub(super) abandon_output: Arc<Notify>,
    /// Of its own processes; gone when they are.
    pub(super) cgroup: Weak<Cgroup>,
    /// Whether the host had it killed.
    pub(super) killed: Arc<AtomicBool>,
    /// What further processes have from it.
    pub(super) process: ProcessSpec,
    pub(super) user: User,
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// PID 1 of the container, in the VM's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// CLOCK_BOOTTIME just before the command was executed.
    pub fn started_boottime_ns(&self) -> u64 {
        self.started_boottime_ns
    }

    /// Whom its first process runs as.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Its terminal.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Whether its processes have ended.
    pub fn has_ended(&self) -> bool {
        !matches!(*self.stage.borrow(), Stage::Running)
    }

    /// Whether [`Self::wait`] would return at once.
    pub fn is_done(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Done(_))
    }

    /// Waits until the container has ended and its output was handed to the host.
    pub async fn wait(&self) -> Result<Arc<ContainerExit>> {
        let mut stage = self.stage.clone();
        let done = stage
            .wait_for(|stage| matches!(stage, Stage::Done(_)))
            .await
            .context("the container's watcher has failed")?;
        match &*done {
            Stage::Done(exit) => Ok(Arc::clone(exit)),
            Stage::Running | Stage::Ended => Err(anyhow!("the container has ended without a status")),
        }
    }

    /// Sends a signal to PID 1 of the container; none where it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            // Before the signal: its end may be noticed at once.
            self.killed.store(true, Ordering::Relaxed);
        }
        spawn::signal_unless_ended(self.pidfd.as_fd(), signal)
    }

    /// Waits no longer for a host to confirm its output.
    pub fn abandon_output(&self) {
        self.abandon_output.notify_one();
    }

    /// Gives up its output and waits until its writable layer is gone. To be called when it has ended.
    pub async fn remove(&self) {
        self.abandon_output();
        let mut watched = self.watched.clone();
        // Nothing is ever sent: this ends with the watcher.
        while watched.changed().await.is_ok() {}
    }

    /// What its processes use; none when they have ended.
    pub fn usage(&self) -> Option<Result<Usage>> {
        self.cgroup.upgrade().map(|cgroup| cgroup.usage())
    }
}
