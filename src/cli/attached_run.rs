//! `run NAME --image=IMAGE` with -i, -t or --attach: the Pod runs independently, and this command stays connected to
//! its container until that ends.
//!
//! The rules are kubectl's (`pkg/cmd/run/run.go`). Where kubectl exits with 0 although the container has failed, a
//! message says so.

mod exit_code;

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::apply::prepare_for_pods;
use super::exec::session_terminal;
use super::failure::{Failure, complain};
use super::generated_pod::ImageArgs;
use super::manifests::Loaded;
use super::object_failure::as_kubectl_error;
use super::pods_host::{self, Place, Purpose};
use super::print::OutputError;
use super::stream::running::{
    ContainerWatch, Waited, container_status, described, is_running, is_start_error, is_terminal, last_end,
};
use super::stream::session::{Ended, Endings, SessionTerminal, Streams, exit_code_of_signal, run_session};
use crate::objects::Objects;
use crate::pod::client::ClientError;
use crate::pod::logs::{self, OutputReader, Positions};
use crate::pod::operations::attach::{self, AttachOptions};
use crate::pod::operations::create::{CreateError, free_name, start_detached};
use crate::pod::operations::delete::delete_one;
use crate::pod::operations::logs::attempt_of;
use crate::pod::operations::session::Received;
use crate::pod::supervisor_protocol::OutputStream;
use crate::state::{Paths, PodRecord};
use crate::stderr::{PREFIX, say};

/// The Pod's grace period when it is removed after a second Ctrl-C, as with `delete --now`.
const SHORT_GRACE: Duration = Duration::from_secs(1);

/// How long the status may show a container as running after a failed connection: the supervisor receives the
/// container's end before it writes the status.
const STATUS_PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn run(loaded: Loaded, args: &ImageArgs) -> Result<ExitCode, Failure> {
    let paths = match pods_host::go_to_pods(Purpose::Start, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let objects = Objects::open(&paths).map_err(|error| as_kubectl_error(error, None))?;
    let mut manifests = loaded.manifests;
    prepare_for_pods(&objects, &mut manifests).map_err(|error| as_kubectl_error(error, None))?;
    let pod = manifests.pods.first().context("there is no Pod")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(free_name(&paths, pod))?;
    let exit_code = runtime.block_on(run_attached(&paths, pod, args));
    // A blocking read of a terminal cannot be cancelled.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit_code?))
}

async fn run_attached(paths: &Paths, pod: &Pod, args: &ImageArgs) -> anyhow::Result<u8> {
    // Before the Pod exists: no signal may end this process and leave behind the Pod that --rm must remove.
    let mut endings = Endings::new()?;
    let record = start_detached(paths, pod).map_err(CreateError::into_report)?;
    let mut console = Console {
        output: Box::new(tokio::io::stdout()),
        errors: Box::new(tokio::io::stderr()),
        tell: &mut |text| say!("{text}"),
    };
    follow_and_remove(paths, &record, args, &mut endings, &mut console).await
}

/// Where the container's output and this command's messages go.
struct Console<'c> {
    output: Box<dyn AsyncWrite + Unpin>,
    errors: Box<dyn AsyncWrite + Unpin>,
    tell: &'c mut dyn FnMut(&str),
}

impl Console<'_> {
    async fn write(&mut self, stream: OutputStream, bytes: &[u8]) -> anyhow::Result<()> {
        let to = match stream {
            OutputStream::Stdout => &mut self.output,
            OutputStream::Stderr => &mut self.errors,
        };
        let written = async {
            to.write_all(bytes).await?;
            to.flush().await
        };
        match (stream, written.await) {
            (OutputStream::Stderr, Err(error)) if error.kind() != ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard error")
            }
            (_, written) => Ok(written.map_err(OutputError::from)?),
        }
    }

    fn tell(&mut self, text: &str) {
        (self.tell)(text);
    }

    fn tell_missing(&mut self, bytes: u64) {
        if bytes > 0 {
            self.tell(&format!(
                "{PREFIX}warning: {bytes} bytes of the container's output are lost, because its log does not contain them"
            ));
        }
    }
}

/// Follows the Pod. With `--rm` also removes it, however following ends.
async fn follow_and_remove(
    paths: &Paths,
    record: &PodRecord,
    args: &ImageArgs,
    endings: &mut Endings,
    console: &mut Console<'_>,
) -> anyhow::Result<u8> {
    let followed = follow(paths, record, args, endings, console).await;
    if !args.rm {
        return followed;
    }
    let removed = remove(paths, record, endings, console.tell).await;
    match (followed, removed) {
        (followed, Ok(())) => followed,
        (Ok(_), Err(error)) => Err(error),
        (Err(first), Err(error)) => {
            complain(&first);
            Err(error)
        }
    }
}

/// Deletes the Pod and waits until it is gone. A first signal shortens the grace period, a second ends the wait.
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
                tell(&format!("{PREFIX}killing the Pod (press Ctrl-C again to stop waiting for it)"));
            }
        }
    }
}

/// Follows a container that was added to a Pod: shows its output until it ends. As in kubectl, the exit code does not
/// depend on how the container ends.
pub(super) async fn follow_added(
    paths: &Paths,
    record: &PodRecord,
    container: &Container,
    options: FollowOptions,
    endings: &mut Endings,
) -> anyhow::Result<u8> {
    let mut console = Console {
        output: Box::new(tokio::io::stdout()),
        errors: Box::new(tokio::io::stderr()),
        tell: &mut |text| say!("{text}"),
    };
    let mut following = Following {
        paths,
        record,
        container,
        options,
        watch: ContainerWatch::new(paths, record, &container.name)?,
        endings,
        console: &mut console,
    };
    match following.show(Policy::Ignored).await? {
        ControlFlow::Break(exit_code) => return Ok(exit_code),
        ControlFlow::Continue(_) => {}
    }
    let status = following.watch.status()?;
    match last_end(&status, &container.name).filter(|end| is_start_error(end)) {
        Some(end) => bail!("container {:?} {}", container.name, described(end)),
        None => Ok(0),
    }
}

/// How to follow a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct FollowOptions {
    /// Pass this process's standard input to the container.
    pub(super) stdin: bool,
    /// Use this terminal as the container's.
    pub(super) tty: bool,
    /// How long to wait for the container to run.
    pub(super) pod_running_timeout: Duration,
    /// Whether the Pod is deleted afterwards.
    pub(super) rm: bool,
    /// Whether the container may be restarted after its end.
    pub(super) may_restart: bool,
}

/// A Pod being followed.
struct Following<'a, 'c> {
    paths: &'a Paths,
    record: &'a PodRecord,
    container: &'a Container,
    options: FollowOptions,
    watch: ContainerWatch<'a>,
    endings: &'a mut Endings,
    console: &'a mut Console<'c>,
}

/// How this command uses the container's exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Exit with the same code.
    Returned,
    /// Wait until the container, which is restarted on failure, succeeds.
    UntilSuccess,
    /// Ignore it: do not wait for the Pod.
    Ignored,
}

/// Connects to the container once it runs, and follows the Pod according to its restart policy.
async fn follow(
    paths: &Paths,
    record: &PodRecord,
    args: &ImageArgs,
    endings: &mut Endings,
    console: &mut Console<'_>,
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
        options: FollowOptions {
            stdin: args.stdin,
            tty: args.tty,
            pod_running_timeout: args.pod_running_timeout,
            rm: args.rm,
            may_restart: true,
        },
        watch: ContainerWatch::new(paths, record, &container.name)?,
        endings,
        console,
    };
    following.until_the_end(policy, args.leave_stdin_open).await
}

impl Following<'_, '_> {
    async fn until_the_end(mut self, policy: Policy, leave_stdin_open: bool) -> anyhow::Result<u8> {
        let id = match self.show(policy).await? {
            ControlFlow::Continue(id) => id,
            ControlFlow::Break(exit_code) => return Ok(exit_code),
        };
        match policy {
            Policy::Returned => self.exit_code().await,
            Policy::UntilSuccess => self.success(id.as_deref()).await,
            Policy::Ignored => self.ignored(id.as_deref(), leave_stdin_open).await,
        }
    }

    /// Waits for the container to run, and shows its output until it ends. Returns the container ID of the attempt that
    /// ran, or this command's exit code if that ends the command.
    async fn show(&mut self, policy: Policy) -> anyhow::Result<ControlFlow<u8, Option<String>>> {
        let name = self.container.name.clone();
        let may_restart = self.options.may_restart;
        // A container that could not be started may be restarted.
        let has_begun = |status: &PodStatus| {
            let ended = last_end(status, &name).is_some_and(|end| !is_start_error(end) || !may_restart);
            is_terminal(status) || is_running(status, &name) || ended
        };
        let begun = match self.wait(has_begun).await? {
            Waited::Until(status) => status,
            Waited::TimedOut(status) => return Err(self.watch.timed_out(&status)),
            Waited::Signal(number) => return Ok(ControlFlow::Break(self.interrupted(number))),
        };
        let mut id = None;
        if is_running(&begun, &name) {
            id = container_status(&begun, &name).and_then(|status| status.container_id.clone());
            if let Some(exit_code) = self.show_running(id.as_deref(), policy).await? {
                return Ok(ControlFlow::Break(exit_code));
            }
        } else {
            let end = last_end(&begun, &name).and_then(|end| end.container_id.as_deref());
            let ended = end.and_then(|id| attempt_of(id, &name));
            if let Some(number) = self.show_ended(ended).await? {
                return Ok(ControlFlow::Break(self.interrupted(number)));
            }
        }
        Ok(ControlFlow::Continue(id))
    }

    async fn wait(&mut self, is_wanted: impl Fn(&PodStatus) -> bool) -> anyhow::Result<Waited> {
        self.wait_at_most(self.options.pod_running_timeout, is_wanted).await
    }

    async fn wait_at_most(
        &mut self,
        timeout: Duration,
        is_wanted: impl Fn(&PodStatus) -> bool,
    ) -> anyhow::Result<Waited> {
        self.watch
            .until(timeout, self.endings, self.console.tell, is_wanted)
            .await
    }

    /// Handles a signal that ended this side of the session.
    fn interrupted(&mut self, number: u8) -> u8 {
        let name = &self.record.name;
        self.console.tell(&match self.options.rm {
            true => format!("{PREFIX}stopping the Pod (press Ctrl-C again to kill it)"),
            false => {
                format!("{PREFIX}pod {name:?} keeps running; to delete it, run `microkube delete pod {name}`")
            }
        });
        exit_code_of_signal(number)
    }

    /// Shows all output of the running attempt with this container ID until it ends. Returns this command's exit code
    /// if that ends the command.
    async fn show_running(&mut self, id: Option<&str>, policy: Policy) -> anyhow::Result<Option<u8>> {
        let container = self.container;
        let attempt = id.and_then(|id| attempt_of(id, &container.name)).unwrap_or(0);
        // The attempts that ended before this command noticed that they ran.
        let earlier = self.logged_attempts()?;
        for earlier in earlier.into_iter().filter(|earlier| *earlier < attempt) {
            if let Some(number) = self.show_log(earlier, Positions::default()).await? {
                return Ok(Some(self.interrupted(number)));
            }
        }
        let (ended, received) = self.attach(id).await;
        if let Some(received) = received {
            self.console.tell_missing(received.missing_bytes);
        }
        let error = match ended {
            Ok(Ended::Exited(_)) => return Ok(None),
            // As in kubectl: this waits for the Pod's end, unless its exit code is ignored.
            Ok(Ended::NoMoreInput) => return Ok((policy == Policy::Ignored).then_some(0)),
            Ok(Ended::Signal(number)) => return Ok(Some(self.interrupted(number))),
            Ok(other) => return Ok(Some(other.exit_code(|_| 0))),
            Err(error) if error.is::<ClientError>() => error,
            Err(error) => return Err(error),
        };
        let is_over = |status: &PodStatus| !is_attempt_running(status, container, id);
        match self.wait_at_most(STATUS_PATIENCE, is_over).await? {
            Waited::Until(_) => {}
            Waited::TimedOut(_) => return Err(error),
            Waited::Signal(number) => return Ok(Some(self.interrupted(number))),
        }
        match received {
            // The container ended before or during the session: its log has the rest of the output.
            Some(received) => {
                if let Some(number) = self.show_log(attempt, received.positions).await? {
                    return Ok(Some(self.interrupted(number)));
                }
            }
            // Do not show any output twice.
            None => {
                let advice = match self.options.rm {
                    true => String::new(),
                    false => format!("; `microkube logs {}` shows the whole output", self.record.name),
                };
                self.console.tell(&format!("{PREFIX}warning: {error:#}{advice}"));
            }
        }
        Ok(None)
    }

    /// Connects to the running attempt until its end. Also returns how much of its output was shown, if that is known.
    async fn attach(&mut self, id: Option<&str>) -> (anyhow::Result<Ended>, Option<Received>) {
        let nothing = Some(Received::default());
        let (stdin, tty) = (self.options.stdin, self.options.tty);
        let terminal = match session_terminal(stdin, tty, false) {
            Ok(terminal) => terminal,
            Err(error) => return (Err(error), nothing),
        };
        if terminal.is_some() {
            self.console
                .tell("If you don't see a command prompt, try pressing enter.\r");
        }
        let connection = AttachOptions {
            container: self.container.name.clone(),
            stdin,
            tty_size: terminal.as_ref().and_then(SessionTerminal::size),
            from_start_of: id.map(str::to_owned),
        };
        let (mut events, input) = match attach::attach(self.paths, &self.record.uid, connection).await {
            Ok(opened) => opened,
            Err(error) => return (Err(error.into()), nothing),
        };
        let streams = Streams {
            input: stdin.then(tokio::io::stdin),
            output: &mut self.console.output,
            errors: &mut self.console.errors,
            terminal,
            detachable: true,
        };
        let ended = run_session(&mut events, input, streams, self.endings).await;
        (ended, events.received())
    }

    /// The container's attempts that have a log, oldest first.
    fn logged_attempts(&self) -> anyhow::Result<Vec<u32>> {
        let directory = logs::container_dir(self.paths, &self.record.uid, &self.container.name);
        match logs::attempts(&directory) {
            // The container was never started.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            attempts => attempts.context("cannot read the container's logs"),
        }
    }

    /// Shows all output up to the attempt that ended last, or of the first attempt if that one is unknown. A failed
    /// start also counts as an attempt. Returns the number of the signal that ended this, if one did.
    async fn show_ended(&mut self, last: Option<u32>) -> anyhow::Result<Option<u8>> {
        let mut attempts = self.logged_attempts()?;
        let last = last.or_else(|| attempts.first().copied());
        attempts.retain(|attempt| last.is_some_and(|last| *attempt <= last));
        for attempt in attempts {
            let signal = self.show_log(attempt, Positions::default()).await?;
            if signal.is_some() {
                return Ok(signal);
            }
        }
        Ok(None)
    }

    /// Shows the output in the log of an attempt that has ended, from these positions on. Returns the number of the
    /// signal that ended this, if one did.
    async fn show_log(&mut self, attempt: u32, start: Positions) -> anyhow::Result<Option<u8>> {
        let directory = logs::container_dir(self.paths, &self.record.uid, &self.container.name);
        let unreadable = "cannot read the container's log";
        let mut log = OutputReader::open(&directory, attempt, start, None).context(unreadable)?;
        while let Some((stream, bytes)) = log.next_chunk().context(unreadable)? {
            tokio::select! {
                biased;
                number = self.endings.next() => return Ok(Some(number)),
                // The reader may have stopped reading, for example `less`.
                written = self.console.write(stream, &bytes) => written?,
            }
        }
        self.console.tell_missing(log.missing_bytes());
        Ok(None)
    }
}

/// Whether the container is still running with this container ID.
fn is_attempt_running(status: &PodStatus, container: &Container, id: Option<&str>) -> bool {
    let running = container_status(status, &container.name).filter(|_| is_running(status, &container.name));
    running.is_some_and(|status| status.container_id.as_deref() == id)
}

#[cfg(test)]
mod tests;
