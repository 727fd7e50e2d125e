//! `microkube attach`: connects to a container's main process.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::{Container, PodStatus};

use super::exec::{connect_standard_streams, session_terminal};
use super::failure::Failure;
use super::pods_host::{self, Place, Purpose};
use super::print::print;
use super::stream::arguments::SessionArgs;
use super::stream::running::{
    ContainerWatch, Waited, container_status, is_running, is_terminal, running_timeout, with_reason_not_running,
};
use super::stream::session::{Endings, SessionTerminal, exit_code_of_signal};
use super::stream::target;
use crate::pod::operations::attach::{self, AttachOptions};
use crate::pod::recorded_pod::RecordedPod;
use crate::state::Paths;
use crate::stderr::{PREFIX, say};

/// Attach to a running container
///
/// Shows the container's output from now on, and with -i passes stdin to it. If the container is not running yet, waits
/// for it. Ctrl-C detaches and leaves the container running. With -it, Ctrl-C goes to the container; press Ctrl-P
/// Ctrl-Q to detach.
///
/// If the container has stdinOnce: true, its stdin closes when the first `attach -i` ends. Otherwise it stays open for
/// the next `attach -i`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  microkube attach web\n  microkube attach -it shell -c sh")]
pub struct AttachArgs {
    #[command(flatten)]
    session: SessionArgs,
    /// How long to wait for the container to run
    #[arg(long, default_value = "1m", value_parser = running_timeout, allow_hyphen_values = true, value_name = "DURATION")]
    pod_running_timeout: Duration,
}

pub(super) fn run(args: AttachArgs) -> Result<ExitCode, Failure> {
    let paths = match pods_host::go_to_pods(Purpose::Look, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let target = args.session.target(&paths, "attach")?;
    let container = target::named_or_default(&target, args.session.container.as_deref(), args.session.quiet)
        .context("cannot attach to the container")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(attach(&paths, &args, &target, &container));
    // A blocking read of a terminal cannot be cancelled.
    runtime.shutdown_background();
    Ok(ExitCode::from(exit_code?))
}

async fn attach(paths: &Paths, args: &AttachArgs, target: &RecordedPod, container: &Container) -> anyhow::Result<u8> {
    let mut endings = Endings::new()?;
    let session = &args.session;
    let mut tell = |text: &str| {
        if !session.quiet {
            say!("{text}");
        }
    };
    if let Some(number) = wait(paths, args, target, container, &mut endings, &mut tell).await? {
        return Ok(exit_code_of_signal(number));
    }
    let has_tty = container.tty == Some(true);
    if session.tty && !has_tty {
        tell(&format!(
            "error: Unable to use a TTY - container {} did not allocate one",
            container.name
        ));
    }
    if session.stdin && container.stdin != Some(true) {
        tell(&format!(
            "{PREFIX}warning: container {} does not accept stdin; set `stdin: true` in its spec",
            container.name
        ));
    }
    tell("If you don't see a command prompt, try pressing enter.");
    // A container with a terminal needs one here, whether requested or not.
    let terminal = session_terminal(session.stdin, has_tty, session.quiet || !session.tty)?;
    let on_terminal = terminal.is_some();
    let connection = AttachOptions {
        container: container.name.clone(),
        stdin: session.stdin,
        tty_size: terminal.as_ref().and_then(SessionTerminal::size),
        from_start_of: None,
    };
    let opened = attach::attach(paths, &target.record.uid, connection).await;
    let ended = connect_standard_streams(opened, session.stdin, terminal, true, &mut endings).await;
    let ended = ended.map_err(|error| with_reason_not_running(error, paths, &target.record, &container.name))?;
    let spec = target.record.pod.spec.as_ref();
    let restart_policy = spec.and_then(|spec| spec.restart_policy.as_deref());
    if on_terminal && !session.quiet && matches!(restart_policy, None | Some("Always")) {
        print(&format!(
            "Session ended, resume using 'microkube attach {} -c {} -i -t' command when the pod is running\n",
            target.record.name, container.name
        ))?;
    }
    // As in kubectl: the container's exit code does not make this command fail.
    Ok(ended.exit_code(|_| 0))
}

/// Waits until the container runs; returns the signal if one arrives first.
async fn wait(
    paths: &Paths,
    args: &AttachArgs,
    target: &RecordedPod,
    container: &Container,
    endings: &mut Endings,
    tell: &mut dyn FnMut(&str),
) -> anyhow::Result<Option<u8>> {
    let name = &container.name;
    let has_ended = |status: &PodStatus| {
        let state = container_status(status, name).and_then(|status| status.state.as_ref());
        is_terminal(status) || state.is_some_and(|state| state.terminated.is_some())
    };
    let mut watch = ContainerWatch::new(paths, &target.record, name)?;
    let is_decided = |status: &PodStatus| is_running(status, name) || has_ended(status);
    match watch.until(args.pod_running_timeout, endings, tell, is_decided).await? {
        Waited::Until(status) if has_ended(&status) => {
            let error = anyhow!("container {name:?} is not running");
            Err(with_reason_not_running(error, paths, &target.record, name))
        }
        Waited::Until(_) => Ok(None),
        Waited::TimedOut(status) => Err(watch.timed_out(&status)),
        Waited::Signal(number) => Ok(Some(number)),
    }
}
