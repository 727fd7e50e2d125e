//! A started container, until everything that belongs to it is gone.

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
use crate::sandbox::Project;

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerExit {
    /// How its PID 1 ended.
    pub status: ExitStatus,
    /// Whether that was because memory ran out.
    pub oom_killed: bool,
    /// The content of its termination message file.
    pub termination_message: Vec<u8>,
    /// CLOCK_BOOTTIME in nanoseconds.
    pub finished_boottime_ns: u64,
}

/// The stage of the container's life.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Running,
    /// Its processes have ended; its output may still be in flight.
    Ended,
    /// The host has its output.
    Done(Arc<ContainerExit>),
}

/// A started container.
#[derive(Debug)]
pub struct Container {
    pub(super) id: String,
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
    pub(super) started_boottime_ns: u64,
    pub(super) terminal: Terminal,
    pub(super) stage: watch::Receiver<Stage>,
    /// Closed by its watcher when everything that belongs to the container is gone.
    pub(super) watched: watch::Receiver<()>,
    pub(super) abandon_output: Arc<Notify>,
    /// The cgroup of its processes; gone when they are.
    pub(super) cgroup: Weak<Cgroup>,
    /// Whether the host had it killed.
    pub(super) killed: Arc<AtomicBool>,
    /// The settings that exec processes inherit from it.
    pub(super) process: ProcessSpec,
    pub(super) user: User,
    /// Whether it runs in the Pod's user namespace.
    pub(super) in_user_namespace: bool,
    /// Counts the usage of its writable layer.
    pub(super) project: Option<Project>,
}

impl Container {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// PID 1 of the container, in the VM's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// CLOCK_BOOTTIME in nanoseconds, just before the command was executed.
    pub fn started_boottime_ns(&self) -> u64 {
        self.started_boottime_ns
    }

    /// The user that its first process runs as.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// The project that counts the usage of its writable layer, if the disk does.
    pub fn project(&self) -> Option<Project> {
        self.project
    }

    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Whether its processes have ended.
    pub fn has_ended(&self) -> bool {
        !matches!(*self.stage.borrow(), Stage::Running)
    }

    /// Whether [`Self::wait`] would return immediately.
    pub fn is_done(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Done(_))
    }

    /// Waits until the container has ended and its output has been handed to the host.
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

    /// Sends a signal to PID 1 of the container. Does nothing if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL {
            // Set this before sending the signal, because the end may be noticed immediately.
            self.killed.store(true, Ordering::Relaxed);
        }
        spawn::signal_unless_ended(self.pidfd.as_fd(), signal)
    }

    /// Stops waiting for a host to confirm the output.
    pub fn abandon_output(&self) {
        self.abandon_output.notify_one();
    }

    /// Discards its output and waits until its writable layer is gone. Must be called after it has ended.
    pub async fn remove(&self) {
        self.abandon_output();
        let mut watched = self.watched.clone();
        // The channel carries no messages: this loop ends with the watcher.
        while watched.changed().await.is_ok() {}
    }

    /// The resource usage of its processes; `None` if they have ended.
    pub fn usage(&self) -> Option<Result<Usage>> {
        self.cgroup.upgrade().map(|cgroup| cgroup.usage())
    }
}
