//! Starts a helper and follows it until the command runs, or until it reports why not.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{Pid, pipe2, write};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::cgroup::Cgroup;
use super::spawn::Namespaces;
use super::spec::{FailureKind, HelperSpec, Report};
use super::user::User;
use super::{spawn, terminal};
use crate::reaper::{ExitStatus, Reaper};
use crate::request_field::InvalidRequest;
use crate::stdio::{AgentEnds, HelperEnds};

/// Maximum size of a helper's reports in bytes: a user in 65536 groups, or two lines with a path of 4096 bytes.
const MAX_REPORT_BYTES: u64 = 1 << 20;

/// Why a container or an exec process was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The request does not fit the sandbox or the image.
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// The helper could not become the process.
    #[error("unable to start container process: {message}")]
    Failed {
        kind: FailureKind,
        /// The helper's error chain.
        message: String,
    },
    /// The container of an exec process is not running.
    #[error("container {0:?} is not running")]
    NotRunning(String),
    /// The start was cancelled before the command ran.
    #[error("killed during start")]
    GivenUp,
    /// The deadline passed before the command ran.
    #[error("killed during start: timed out")]
    TimedOut,
    /// The agent could not prepare it.
    #[error("{0:#}")]
    Internal(anyhow::Error),
}

/// The conditions that end a start in progress.
#[derive(Debug, Clone, Default)]
pub struct StartLimit {
    /// Notified to cancel the start.
    pub unwanted: Arc<Notify>,
    /// The time at which the start is cancelled.
    pub deadline: Option<Instant>,
}

impl StartLimit {
    /// Waits until the start has to end, and returns the reason.
    async fn reached(&self) -> StartError {
        tokio::select! {
            () = self.unwanted.notified() => StartError::GivenUp,
            () = until(self.deadline) => StartError::TimedOut,
        }
    }
}

/// Waits until the deadline, or forever if there is none.
pub async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl From<anyhow::Error> for StartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Internal(error)
    }
}

/// The means to start helpers.
#[derive(Debug)]
pub struct Launcher {
    /// The agent's own program.
    pub executable: OwnedFd,
    /// Collects the helpers.
    pub reaper: Reaper,
}

/// The namespaces of a process to launch.
#[derive(Debug, Clone, Copy, Default)]
pub struct Joined<'f> {
    /// The process whose container it joins, or whose PID namespace if it is a new container: its PID and pidfd.
    pub process: Option<(Pid, BorrowedFd<'f>)>,
    /// The Pod's user namespace.
    pub user_namespace: Option<BorrowedFd<'f>>,
}

impl<'f> Joined<'f> {
    /// Where the helper begins.
    fn helper_namespaces(&self, is_new: bool) -> Namespaces<'f> {
        let process = self.process.map(|(_, pidfd)| pidfd);
        match (is_new, process, self.user_namespace) {
            // The PID namespace must belong to the user namespace, so the helper creates or joins it later.
            (true, _, Some(_)) => Namespaces::NewMounts,
            (true, Some(process), None) => Namespaces::NewMountsIn(process),
            (false, Some(process), _) => Namespaces::In(process),
            (_, None, _) => Namespaces::New,
        }
    }
}

/// A running command.
#[derive(Debug)]
pub struct Launched {
    /// Its PID in the VM's PID namespace.
    pub pid: Pid,
    /// The pidfd of the process (pidfd_open(2)).
    pub pidfd: OwnedFd,
    /// Its exit status.
    pub ended: oneshot::Receiver<ExitStatus>,
    /// CLOCK_BOOTTIME in nanoseconds, just before the command was executed.
    pub started_boottime_ns: u64,
    /// The user that it runs as.
    pub user: User,
    /// Master of the terminal, if one was requested.
    pub terminal: Option<OwnedFd>,
}

impl Launched {
    /// Kills it immediately, because something essential is missing.
    pub async fn kill(self) {
        kill(&self.pidfd);
        let _ = self.ended.await;
    }
}

fn kill(pidfd: &OwnedFd) {
    // Fails only if the process has ended.
    let _ = spawn::signal(pidfd.as_fd(), libc::SIGKILL);
}

impl Launcher {
    /// Starts a helper that becomes the process in `spec`, in new namespaces or in those of a container's first
    /// process. Returns when the command runs (after its `turn`, if the specification makes it wait), or when the limit is
    /// reached and the helper is gone.
    pub async fn launch(
        &self,
        spec: &HelperSpec,
        joined: Joined<'_>,
        cgroup: &Cgroup,
        ends: HelperEnds,
        limit: &StartLimit,
        turn: impl Future<Output = ()>,
    ) -> Result<Launched, StartError> {
        let is_new = spec.root.is_some();
        let spec_file = serde_json::to_vec(spec).context("cannot encode the process's specification")?;
        let spec_file = spawn::memory_file(&spec_file).context("cannot store the process's specification")?;
        let (report, helper_report) = report_pipe().context("cannot create a pipe for the helper's report")?;
        let (socket, helper_socket) = match spec.process.terminal {
            Some(_) => terminal::sockets().map(|(agent, helper)| (Some(agent), Some(helper))),
            None => Ok((None, None)),
        }
        .context("cannot create a socket for the terminal")?;
        let (helper_turn, gate) = match spec.waits_for_turn {
            true => pipe2(OFlag::O_CLOEXEC).map(|(read, write)| (Some(read), Some(write))),
            false => Ok((None, None)),
        }
        .context("cannot create a pipe for the helper's turn")?;
        let fds = [
            Some(ends.stdin.as_fd()),
            Some(ends.stdout.as_fd()),
            Some(ends.stderr.as_fd()),
            Some(spec_file.as_fd()),
            Some(helper_report.as_fd()),
            helper_socket.as_ref().map(OwnedFd::as_fd),
            joined.process.map(|(_, pidfd)| pidfd),
            helper_turn.as_ref().map(OwnedFd::as_fd),
            joined.user_namespace,
        ];
        let oom_kills = cgroup.oom_kills();
        let namespaces = joined.helper_namespaces(is_new);
        let start = |cgroup: &OwnedFd| {
            self.reaper
                .spawn(|| spawn::start_helper(self.executable.as_fd(), namespaces, cgroup.as_fd(), fds))
        };
        let started = match (start(&cgroup.open()?), joined.process) {
            // A container that distributes its processes over its own cgroups cannot have processes in the parent
            // cgroup.
            (Err(error), Some((pid, _))) if !is_new && error.raw_os_error() == Some(libc::EBUSY) => {
                start(&cgroup.open_of(pid)?)
            }
            (started, _) => started,
        };
        let (pid, pidfd, ended) = started.context("cannot start the helper that becomes the process")?;
        let helper = Helper { pid, pidfd, ended };
        drop((ends, helper_report, helper_socket, helper_turn));

        let (known, is_known) = oneshot::channel();
        let mut known = Some(known);
        if joined.user_namespace.is_none() || !is_new {
            // The helper itself becomes the process.
            known.take().map(|known| known.send(()));
        }
        let mut forked = None;
        let becoming = async {
            tokio::join!(
                async {
                    // Dropped at the end, so that a helper that has failed is not waited for.
                    let mut known = known;
                    let seen = |report: &Report| {
                        if let Report::Forked { pid } = report {
                            forked = self.adopt(Pid::from_raw(*pid))?;
                            known.take().map(|known| known.send(()));
                        }
                        Ok(())
                    };
                    read_reports(report, seen).await
                },
                async {
                    match socket {
                        Some(socket) => terminal::receive(socket).await,
                        None => Ok(None),
                    }
                },
                async {
                    if let Some(gate) = gate {
                        turn.await;
                        // Nothing may run before the agent can tell its end.
                        if is_known.await.is_ok() {
                            // Fails only if the helper has ended.
                            let _ = write(&gate, b"1");
                        }
                    }
                }
            )
        };
        let became = tokio::select! {
            biased;
            became = becoming => Ok(became),
            over = limit.reached() => Err(over),
        };
        let (reports, terminal, ()) = match became {
            Ok(became) => became,
            Err(over) => {
                Helper::kill_all(helper, forked).await;
                return Err(over);
            }
        };
        let failure = match (reports.map(started_as), terminal) {
            (Ok(Ok((started_boottime_ns, user))), Ok(terminal))
                if terminal.is_some() == spec.process.terminal.is_some() =>
            {
                let Helper { pid, pidfd, ended } = match forked {
                    Some(forked) => {
                        // The helper ends after it has started this process.
                        let _ = helper.ended.await;
                        forked
                    }
                    None => helper,
                };
                return Ok(Launched {
                    pid,
                    pidfd,
                    ended,
                    started_boottime_ns,
                    user,
                    terminal,
                });
            }
            (Ok(Err(failure)), _) => failure,
            (Err(error), _) => Some(error.into()),
            (_, Err(error)) => Some(anyhow::Error::new(error).context("cannot receive the terminal").into()),
            (_, Ok(_)) => Some(anyhow::Error::msg("the helper did not send the terminal").into()),
        };
        let status = Helper::kill_all(helper, forked).await;
        let out_of_memory = status == Some(ExitStatus::Signal(9)) && cgroup.oom_kills() > oom_kills;
        Err(failure.unwrap_or_else(|| died_early(status, out_of_memory)))
    }

    /// Takes over a process that a helper has forked, unless it has ended.
    fn adopt(&self, pid: Pid) -> Result<Option<Helper>> {
        let adopted = self
            .reaper
            .adopt(pid)
            .context("cannot follow the container's process")?;
        Ok(adopted.map(|(pidfd, ended)| Helper { pid, pidfd, ended }))
    }
}

/// A helper, or the process that it has forked to become a container.
#[derive(Debug)]
struct Helper {
    pid: Pid,
    pidfd: OwnedFd,
    ended: oneshot::Receiver<ExitStatus>,
}

impl Helper {
    /// Kills both and waits for their ends. Returns the status of the one that would have become the process.
    async fn kill_all(helper: Self, forked: Option<Self>) -> Option<ExitStatus> {
        kill(&helper.pidfd);
        let mut status = helper.ended.await.ok();
        if let Some(forked) = forked {
            kill(&forked.pidfd);
            status = forked.ended.await.ok();
        }
        status
    }
}

/// The agent's ends of the stdio: those of the pipes, or of the terminal that the helper has sent.
pub fn agent_ends(launched: &mut Launched, pipes: Option<AgentEnds>, stdin: bool) -> Result<AgentEnds> {
    match (pipes, launched.terminal.take()) {
        (Some(pipes), _) => Ok(pipes),
        (None, Some(master)) => AgentEnds::of_terminal(master, stdin).context("cannot use the terminal"),
        (None, None) => anyhow::bail!("there is no terminal"),
    }
}

/// Whether starting a process failed because its container has ended: nothing can be started in its PID namespace any
/// more (clone(2), ENOMEM), or its first process is gone.
pub fn container_is_gone(error: &StartError) -> bool {
    let StartError::Internal(error) = error else {
        return false;
    };
    let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    matches!(errno.map(Errno::from_raw), Some(Errno::ENOMEM | Errno::ESRCH))
}

fn report_pipe() -> io::Result<(Receiver, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((Receiver::from_owned_fd(read)?, write))
}

/// Reads all reports, and shows each to `seen` when it arrives.
async fn read_reports(pipe: Receiver, mut seen: impl FnMut(&Report) -> Result<()>) -> Result<Vec<Report>> {
    let mut lines = BufReader::new(pipe.take(MAX_REPORT_BYTES)).split(b'\n');
    let mut reports = Vec::new();
    while let Some(line) = lines.next_segment().await.context("cannot read the helper's report")? {
        if !line.is_empty() {
            let report = serde_json::from_slice(&line).context("cannot parse the helper's report")?;
            seen(&report)?;
            reports.push(report);
        }
    }
    Ok(reports)
}

/// When and as which user the command was executed, or why it was not; `None` if the helper reported nothing.
fn started_as(mut reports: Vec<Report>) -> Result<(u64, User), Option<StartError>> {
    reports.retain(|report| !matches!(report, Report::Forked { .. }));
    match (reports.pop(), reports.is_empty()) {
        (Some(Report::Executing { boottime_ns, user }), true) => Ok((boottime_ns, user)),
        (Some(Report::Failed { kind, message }), _) => Err(Some(StartError::Failed { kind, message })),
        _ => Err(None),
    }
}

fn died_early(status: Option<ExitStatus>, out_of_memory: bool) -> StartError {
    let message = if out_of_memory {
        "container init was OOM-killed (memory limit too low?)".to_owned()
    } else {
        format!("container init ended before it executed the command: {status:?}")
    };
    StartError::Failed {
        kind: FailureKind::Internal,
        message,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn executing() -> Report {
        Report::Executing {
            boottime_ns: 1 << 60,
            user: User {
                uid: 7,
                gid: 8,
                groups: vec![9],
                home: "/".to_owned(),
            },
        }
    }

    #[test]
    fn only_a_lone_executing_report_means_started() {
        let failed = Report::Failed {
            kind: FailureKind::NotFound,
            message: "exec: \"x\": executable file not found in $PATH".to_owned(),
        };
        assert_eq!(started_as(vec![executing()]).unwrap().0, 1 << 60);
        let error = started_as(vec![executing(), failed]).unwrap_err().unwrap();
        assert_eq!(
            error.to_string(),
            "unable to start container process: exec: \"x\": executable file not found in $PATH"
        );
        let forked = Report::Forked { pid: 9 };
        assert_eq!(started_as(vec![forked.clone(), executing()]).unwrap().0, 1 << 60);
        assert!(started_as(vec![forked]).unwrap_err().is_none());
        assert!(started_as(vec![executing(), executing()]).unwrap_err().is_none());
        assert!(started_as(Vec::new()).unwrap_err().is_none());
    }

    #[test]
    fn an_oom_killed_helper_is_recognised() {
        let message = died_early(Some(ExitStatus::Signal(9)), true).to_string();
        assert!(message.contains("OOM-killed"), "{message}");
        let message = died_early(Some(ExitStatus::Code(126)), false).to_string();
        assert!(message.contains("Code(126)"), "{message}");
    }

    #[test]
    fn a_gone_container_is_recognised_despite_added_context() {
        let gone: anyhow::Result<()> =
            Err(io::Error::from_raw_os_error(libc::ENOMEM)).context("cannot start the helper");
        assert!(container_is_gone(&gone.unwrap_err().into()));
        let other: anyhow::Result<()> =
            Err(io::Error::from_raw_os_error(libc::EMFILE)).context("cannot start the helper");
        assert!(!container_is_gone(&other.unwrap_err().into()));
    }

    #[tokio::test]
    async fn reports_survive_the_round_trip_through_the_pipe() {
        let (pipe, write) = report_pipe().unwrap();
        let mut line = serde_json::to_vec(&executing()).unwrap();
        line.push(b'\n');
        io::Write::write_all(&mut File::from(write), &line).unwrap();
        let mut seen = Vec::new();
        let all = read_reports(pipe, |report| {
            seen.push(report.clone());
            Ok(())
        });
        assert_eq!(all.await.unwrap(), [executing()]);
        assert_eq!(seen, [executing()]);
    }
}
