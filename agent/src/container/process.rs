//! Exec processes: additional processes in a running container (`kubectl exec`, exec probes, hooks).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::unistd::Pid;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::instance::Container;
use super::launch::{Joined, Launched, StartError, StartLimit, agent_ends, container_is_gone, until};
use super::spawn;
use super::spec::{HelperSpec, Size, WantedUser};
use super::starter::ContainerStarter;
use super::terminal::Terminal;
use crate::log;
use crate::reaper::ExitStatus;
use crate::stdio::{self, ProcessStreams};

/// A request to run an exec process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRequest {
    /// Unique within the VM.
    pub id: String,
    pub args: Vec<String>,
    /// Whether the host writes to its stdin.
    pub stdin: bool,
    /// The initial size of its terminal, if it gets one.
    pub terminal: Option<Size>,
    /// When it is killed if it has not ended.
    pub deadline: Option<Instant>,
}

/// How an exec process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessExit {
    pub status: ExitStatus,
    /// Whether it was killed because its deadline passed.
    pub timed_out: bool,
}

/// A process that was started in a running container.
#[derive(Debug)]
pub struct Process {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    terminal: Terminal,
    exit: watch::Receiver<Option<ProcessExit>>,
    abandon_output: Arc<Notify>,
    generation: u64,
}

impl Process {
    /// Its PID in the VM's PID namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// How many supervisors had taken over before it was started.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Waits until it has ended and its output has been handed to the host.
    pub async fn wait(&self) -> Result<ProcessExit> {
        let mut exit = self.exit.clone();
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .context("the process's watcher has failed")?;
        exit.context("the process has ended without a status")
    }

    /// Sends it a signal. Does nothing if it has ended.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        spawn::signal_unless_ended(self.pidfd.as_fd(), signal)
    }

    /// Stops waiting for a host to take the output.
    pub fn abandon_output(&self) {
        self.abandon_output.notify_one();
    }
}

impl ContainerStarter {
    /// Starts an exec process, which has everything except its command and its stdio from the container. Notifying
    /// `unwanted` ends it before it runs.
    pub async fn start_process(
        &self,
        container: &Container,
        request: ProcessRequest,
        unwanted: Arc<Notify>,
    ) -> Result<Process, StartError> {
        let generation = self.supervisors.generation();
        let not_running = || StartError::NotRunning(container.id().to_owned());
        // Held until the process runs, so that the cgroup is not removed meanwhile.
        let cgroup = container.cgroup.upgrade().ok_or_else(not_running)?;
        let tty = request.terminal.is_some();
        let streams = ProcessStreams::open(&request.id, request.stdin, tty, &self.supervisors)
            .await
            .context("cannot connect the process's stdio to the host")?;
        let (helper_ends, ends) = if tty {
            (stdio::before_terminal().context("cannot open /dev/null")?, None)
        } else {
            let (helper, agent) = stdio::pipes(request.stdin).context("cannot create pipes")?;
            (helper, Some(agent))
        };
        let mut process = container.process.clone();
        process.user = WantedUser::Resolved(container.user.clone());
        process.args = request.args;
        process.stdin = request.stdin;
        process.terminal = request.terminal;
        let spec = HelperSpec {
            root: None,
            process,
            waits_for_turn: false,
            in_user_namespace: container.in_user_namespace,
        };
        let deadline = request.deadline;
        let limit = StartLimit { unwanted, deadline };
        let joined = Joined {
            process: Some((container.pid, container.pidfd.as_fd())),
            user_namespace: None,
        };
        let launched = self
            .launcher
            .launch(&spec, joined, &cgroup, helper_ends, &limit, async {})
            .await;
        let mut launched = match launched {
            Err(error) if container_is_gone(&error) || container.has_ended() => {
                log::info!("cannot start a process: {error}");
                return Err(not_running());
            }
            other => other?,
        };
        drop(cgroup);
        let pumps = match agent_ends(&mut launched, ends, request.stdin) {
            Ok(ends) => streams.pump(ends),
            Err(error) => {
                launched.kill().await;
                return Err(error.context("cannot use the process's terminal").into());
            }
        };
        let terminal = Terminal::new(pumps.terminal());
        let (sender, exit) = watch::channel(None);
        let abandon_output = Arc::new(Notify::new());
        let abandoned = Arc::clone(&abandon_output);
        let Launched { pid, pidfd, ended, .. } = launched;
        let pidfd = Arc::new(pidfd);
        let killed = Arc::clone(&pidfd);
        tokio::spawn(async move {
            let (ended, timed_out) = end_by(ended, deadline, || {
                if let Err(error) = spawn::signal_unless_ended(killed.as_fd(), libc::SIGKILL) {
                    log::error!("cannot kill a process that timed out: {error}");
                }
            })
            .await;
            drop(killed);
            // The reaper never drops a sender unused. If it did, dropping our sender here makes waiting calls fail.
            let Ok(status) = ended else { return };
            pumps.finish_unless(&abandoned).await;
            sender.send_replace(Some(ProcessExit { status, timed_out }));
        });
        Ok(Process {
            pid,
            pidfd,
            terminal,
            exit,
            abandon_output,
            generation,
        })
    }
}

/// Waits for an end and forces it when the deadline passes. Returns it, and whether it was forced.
async fn end_by<E: Future + Unpin>(mut end: E, deadline: Option<Instant>, force: impl FnOnce()) -> (E::Output, bool) {
    tokio::select! {
        biased;
        ended = &mut end => (ended, false),
        () = until(deadline) => {
            force();
            (end.await, true)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_process_is_killed_exactly_at_its_timeout() {
        let begun = Instant::now();
        let (sender, end) = oneshot::channel();
        let deadline = Some(begun + Duration::from_secs(3));
        let forced = end_by(end, deadline, move || sender.send(9).unwrap()).await;
        assert_eq!((forced, begun.elapsed()), ((Ok(9), true), Duration::from_secs(3)));

        let (sender, end) = oneshot::channel();
        sender.send(0).unwrap();
        let ended = end_by(end, Some(begun), || panic!("it has ended")).await;
        assert_eq!(ended, (Ok(0), false));
    }
}
