//! `run NAME --image=IMAGE` with -i, -t or --attach: a Pod that lives by itself, and this command connected to its container until that
//! ends.
//!
//! The rules are kubectl's (`pkg/cmd/run/run.go`). Where kubectl exits with 0 although the container has failed, this says so.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, Pod, PodStatus};
use microkube_manifest::Manifests;

use super::exec::{connect_standard_streams, session_terminal};
use super::failure::{Failure, complain};
use super::generated_pod::ImageArgs;
use super::manifests::Loaded;
use super::pods_host::{self, Place, Purpose};
use super::print::{for_terminal, write_output};
use super::stream::running::{
    ContainerWatch, Waited, container_status, described, is_running, is_start_error, is_terminal, last_end,
    why_not_running,
};
use super::stream::session::{Ended, Endings, SessionTerminal, exit_code_of_signal};
use crate::pod::client::ClientError;
use crate::pod::logs::{self, LogReader, Progress, ReadOptions};
use crate::pod::operations::attach::{self, AttachOptions};
use crate::pod::operations::create::{CreateError, free_name, start_detached};
use crate::pod::operations::delete::delete_one;
use crate::state::{Paths, PodRecord};
use crate::stderr::{PREFIX, report, say};

/// The grace period of a Pod that is removed when Ctrl-C comes again, as that of `delete --now`.
const SHORT_GRACE: Duration = Duration::from_secs(1);

/// How long a container that could not be connected to may still be shown as running: its end is known to the supervisor before its status
/// is written.
const STATUS_PATIENCE: Duration = Duration::from_secs(10);

/// Runs the Pod.
pub(super) fn run(loaded: Loaded, args: &ImageArgs) -> Result<ExitCode, Failure> {
    let paths = match pods_host::go_to_pods(Purpose::Start, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let pod = loaded.manifests.pods.first().context("there is no Pod")?;
    for warning in &loaded.manifests.warnings {
        report!("warning: {warning}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(free_name(&paths, pod))?;
    let exit_code = runtime.block_on(run_attached(&paths, pod, &loaded.manifests, args));
    // A read of a terminal cannot be called off.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit_code?))
}

async fn run_attached(paths: &Paths, pod: &Pod, manifests: &Manifests, args: &ImageArgs) -> anyhow::Result<u8> {
    // Before there is a Pod: no signal may end this process and leave behind what --rm is to remove.
    let mut endings = Endings::new()?;
    let record = start_detached(paths, pod, manifests).map_err(CreateError::into_report)?;
    let mut tell = |text: &str| say!("{text}");
    follow_and_remove(paths, &record, args, &mut endings, &mut tell).await
}

/// Follows the Pod, and removes it with `--rm`, however the first ends.
async fn follow_and_remove(
    paths: &Paths,
    record: &PodRecord,
    args: &ImageArgs,
    endings: &mut Endings,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<u8> {
    let followed = follow(paths, record, args, endings, tell).await;
    if !args.rm {
        return followed;
    }
    let removed = remove(paths, record, endings, tell).await;
    match (followed, removed) {
        (followed, Ok(())) => followed,
        (Ok(_), Err(error)) => Err(error),
        (Err(first), Err(error)) => {
            complain(&first);
            Err(error)
        }
    }
}

/// Deletes the Pod and waits until it is gone. The first signal shortens its grace period, the second ends the wait.
async fn remove(
    paths: &Paths,
    record: &PodRecord,
    endings: &mut Endings,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<()> {
    let mut grace = None;
    loop {
        tokio::select! {
            deleted = delete_one(paths, record.clone(), grace) => {
                deleted.with_context(|| format!("--rm could not remove pod {:?}", record.name))?;
                tell(&format!("pod {:?} deleted", record.name));
                return Ok(());
            }
            _ = endings.next() => {
                if grace.replace(SHORT_GRACE).is_some() {
                    bail!("pod {:?} is still being deleted", record.name);
                }
                tell(&format!("{PREFIX}killing the Pod (Ctrl-C again does not wait for its end)"));
            }
        }
    }
}

/// A Pod that is followed.
struct Following<'a> {
    paths: &'a Paths,
    record: &'a PodRecord,
    container: &'a Container,
    args: &'a ImageArgs,
    watch: ContainerWatch<'a>,
    endings: &'a mut Endings,
    tell: &'a mut dyn FnMut(&str),
}

/// What becomes of the exit code of the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// It is this command's.
    Returned,
    /// The container is started again until it succeeds, and this command waits for that.
    UntilSuccess,
    /// The Pod is not waited for.
    Ignored,
}

/// Connects to the container as soon as it runs, and follows the Pod as far as its restart policy lets it.
async fn follow(
    paths: &Paths,
    record: &PodRecord,
    args: &ImageArgs,
    endings: &mut Endings,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<u8> {
    let spec = record.pod.spec.as_ref().context("the Pod has no spec")?;
    let container = spec.containers.first().context("the Pod has no container")?;
    let policy = match spec.restart_policy.as_deref() {
        _ if args.leave_stdin_open => Policy::Ignored,
        Some("Never") => Policy::Returned,
        Some("OnFailure") => Policy::UntilSuccess,
        _ => Policy::Ignored,
    };
    let following = Following {
        paths,
        record,
        container,
        args,
        watch: ContainerWatch::new(paths, record, &container.name)?,
        endings,
        tell,
    };
    following.until_the_end(policy).await
}

impl Following<'_> {
    async fn until_the_end(mut self, policy: Policy) -> anyhow::Result<u8> {
        let name = self.container.name.clone();
        // One that could not be started may be started again.
        let has_begun = |status: &PodStatus| {
            let ended = last_end(status, &name).is_some_and(|end| !is_start_error(end));
            is_terminal(status) || is_running(status, &name) || ended
        };
        let begun = match self.wait(has_begun).await? {
            Waited::Until(status) => status,
            Waited::TimedOut(status) => return Err(self.watch.timed_out(&status)),
            Waited::Signal(number) => return Ok(self.interrupted(number)),
        };
        let mut id = None;
        if is_running(&begun, &name) {
            id = container_status(&begun, &name).and_then(|status| status.container_id.clone());
            match self.attach().await {
                Ok(Ended::Exited(_)) => {}
                // As kubectl: the Pod's end is waited for, unless nobody asks how it ends.
                Ok(Ended::NoMoreInput) if policy == Policy::Ignored => return Ok(0),
                Ok(Ended::NoMoreInput) => {}
                Ok(Ended::Signal(number)) => return Ok(self.interrupted(number)),
                Ok(other) => return Ok(other.exit_code(|_| 0)),
                Err(error) if error.is::<ClientError>() => {
                    let container = self.container;
                    let is_over = |status: &PodStatus| !is_attempt_running(status, container, id.as_deref());
                    match self.wait_at_most(STATUS_PATIENCE, is_over).await? {
                        // It was too fast: what it wrote is in its log.
                        Waited::Until(_) if is_refused(&error) => show_log(self.paths, self.record, self.container)?,
                        // What came before that was shown, and must not be shown twice.
                        Waited::Until(_) => {
                            let advice = match self.args.rm {
                                true => String::new(),
                                false => format!("; `microkube logs {}` has the whole output", self.record.name),
                            };
                            (self.tell)(&format!("{PREFIX}warning: {error:#}{advice}"));
                        }
                        Waited::TimedOut(_) => return Err(error),
                        Waited::Signal(number) => return Ok(self.interrupted(number)),
                    }
                }
                Err(error) => return Err(error),
            }
        } else {
            show_log(self.paths, self.record, self.container)?;
        }
        match policy {
            Policy::Returned => self.exit_code().await,
            Policy::UntilSuccess => self.success(id.as_deref()).await,
            Policy::Ignored => self.ignored(id.as_deref()).await,
        }
    }

    async fn wait(&mut self, is_wanted: impl Fn(&PodStatus) -> bool) -> anyhow::Result<Waited> {
        self.wait_at_most(self.args.pod_running_timeout, is_wanted).await
    }

    async fn wait_at_most(
        &mut self,
        timeout: Duration,
        is_wanted: impl Fn(&PodStatus) -> bool,
    ) -> anyhow::Result<Waited> {
        self.watch.until(timeout, self.endings, self.tell, is_wanted).await
    }

    /// A signal has ended this side.
    fn interrupted(&mut self, number: u8) -> u8 {
        let name = &self.record.name;
        (self.tell)(&match self.args.rm {
            true => format!("{PREFIX}ending the Pod (Ctrl-C again kills it)"),
            false => {
                format!("{PREFIX}pod {name:?} goes on without this command (`microkube delete pod {name}` ends it)")
            }
        });
        exit_code_of_signal(number)
    }

    async fn attach(&mut self) -> anyhow::Result<Ended> {
        let (stdin, tty) = (self.args.stdin, self.args.tty);
        let terminal = session_terminal(stdin, tty, false)?;
        if terminal.is_some() {
            (self.tell)("If you don't see a command prompt, try pressing enter.\r");
        }
        let connection = AttachOptions {
            container: self.container.name.clone(),
            stdin,
            tty_size: terminal.as_ref().and_then(SessionTerminal::size),
        };
        let opened = attach::attach(self.paths, &self.record.uid, connection).await;
        connect_standard_streams(opened, stdin, terminal, true, self.endings).await
    }

    /// Waits for the Pod's end; the exit code is the container's.
    async fn exit_code(&mut self) -> anyhow::Result<u8> {
        let (namespace, name) = (&self.record.namespace, &self.record.name);
        let status = match self.wait(is_terminal).await? {
            Waited::Until(status) => status,
            Waited::TimedOut(status) => {
                let phase = status.phase.as_deref().unwrap_or("Pending");
                bail!("timed out waiting for the condition: pod {namespace}/{name} left in phase {phase}");
            }
            Waited::Signal(number) => return Ok(self.interrupted(number)),
        };
        let end = last_end(&status, &self.container.name);
        match (status.phase.as_deref(), end) {
            (Some("Succeeded"), _) => Ok(0),
            (_, Some(end)) if end.exit_code != 0 => {
                let reason = end.reason.as_deref().unwrap_or("Unknown");
                let message = end.message.as_deref().map(str::trim_end).unwrap_or_default();
                let text = format!("pod {namespace}/{name} terminated ({reason})\n{message}");
                (self.tell)(for_terminal(&text).trim_end());
                Ok(u8::try_from(end.exit_code).unwrap_or(1))
            }
            _ => {
                let reason = why_not_running(&status, &self.container.name);
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                bail!("pod {namespace}/{name} failed with unknown exit code{reason}");
            }
        }
    }

    /// Waits until the attempt with this container ID is over, and returns how it ended; `Err` when a signal comes first.
    async fn end_of(&mut self, id: Option<&str>) -> anyhow::Result<Result<Option<ContainerStateTerminated>, u8>> {
        let container = self.container;
        let is_over = |status: &PodStatus| is_terminal(status) || !is_attempt_running(status, container, id);
        Ok(match self.wait(is_over).await? {
            Waited::Until(status) => Ok(last_end(&status, &container.name).cloned()),
            Waited::TimedOut(_) => Ok(None),
            Waited::Signal(number) => Err(number),
        })
    }

    /// Waits until the Pod has succeeded: the container is started again as long as it fails.
    async fn success(&mut self, id: Option<&str>) -> anyhow::Result<u8> {
        let (pod, container) = (&self.record.name, &self.container.name);
        let timeout = self.args.pod_running_timeout;
        match self.end_of(id).await? {
            Err(number) => return Ok(self.interrupted(number)),
            Ok(Some(end)) if end.exit_code != 0 => (self.tell)(&format!(
                "{PREFIX}pod {pod:?}: container {container:?} {}; --restart=OnFailure starts it again, so its exit code cannot be \
                 this command's: waiting up to {timeout:?} for the Pod to succeed (--restart=Never returns the exit code)",
                described(&end),
            )),
            Ok(_) => {}
        }
        match self.wait(is_terminal).await? {
            Waited::Until(status) if status.phase.as_deref() == Some("Succeeded") => Ok(0),
            Waited::Until(status) => {
                let reason = why_not_running(&status, container);
                bail!(
                    "pod {pod:?} failed: {}",
                    reason.as_deref().unwrap_or("its status does not say why")
                )
            }
            Waited::TimedOut(status) => {
                let end =
                    last_end(&status, container).map(|end| format!(": container {container:?} {}", described(end)));
                bail!(
                    "timed out waiting for the condition: pod {pod:?} has not succeeded{}",
                    end.unwrap_or_default()
                )
            }
            Waited::Signal(number) => Ok(self.interrupted(number)),
        }
    }

    /// The exit code is 0 whatever the container's is, which is said where that is another.
    async fn ignored(&mut self, id: Option<&str>) -> anyhow::Result<u8> {
        let end = match self.end_of(id).await? {
            Ok(end) => end,
            Err(number) => return Ok(self.interrupted(number)),
        };
        if let Some(end) = end.filter(|end| end.exit_code != 0) {
            let why = match self.args.leave_stdin_open {
                true => "with --leave-stdin-open it does not wait for the Pod's end",
                false => "--restart=Always starts the container again (--restart=Never returns its exit code)",
            };
            (self.tell)(&format!(
                "{PREFIX}pod {:?}: container {:?} {}; this command's exit code is 0: {why}",
                self.record.name,
                self.container.name,
                described(&end),
            ));
        }
        Ok(0)
    }
}

/// Whether there was no session at all: no supervisor listens, or the container is not running. A session that broke off later has shown its output.
fn is_refused(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(ClientError::NotRunning(_) | ClientError::Connect(_) | ClientError::Refused(_))
    )
}

/// Whether the container still runs with this container ID.
fn is_attempt_running(status: &PodStatus, container: &Container, id: Option<&str>) -> bool {
    let running = container_status(status, &container.name).filter(|_| is_running(status, &container.name));
    running.is_some_and(|status| status.container_id.as_deref() == id)
}

/// Prints the first log of the container.
fn show_log(paths: &Paths, record: &PodRecord, container: &Container) -> anyhow::Result<()> {
    let directory = logs::container_dir(paths, &record.uid, &container.name);
    let attempt = match logs::attempts(&directory) {
        Ok(attempts) => attempts.into_iter().min().unwrap_or(0),
        // It was never started.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut log = LogReader::open(directory, attempt, ReadOptions::default())?;
    let mut text = Vec::new();
    loop {
        let progress = log.read(&mut text)?;
        write_output(&text)?;
        text.clear();
        if progress != Progress::More {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests;
