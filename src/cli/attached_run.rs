//! `run NAME --image=IMAGE` with -i, -t or --attach: a Pod that lives by itself, and this command connected to its container until that
//! ends.

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, PodStatus};

use super::Failure;
use super::delete;
use super::detached::{make_way, start_detached};
use super::exec::{session_terminal, talk};
use super::generated_pod::ImageArgs;
use super::kvm::{self, Place, Purpose};
use super::manifests::Loaded;
use super::pods::changes::Changes;
use super::stream::session::{Ended, SessionTerminal};
use super::stream::target::Target;
use crate::pod::attach::Request;
use crate::pod::logs::{self, LogReader, Progress, ReadOptions};
use crate::state::{Paths, PodRecord, PodRecords};
use crate::stderr::say;

/// Runs the Pod.
pub(super) fn run(loaded: Loaded, args: &ImageArgs) -> Result<ExitCode, Failure> {
    let paths = match kvm::go_to_pods(Purpose::Start, None)? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let pod = loaded.manifests.pods.first().context("there is no Pod")?;
    make_way(&paths, pod)?;
    let record = start_detached(&paths, pod, &loaded.manifests)?;
    let result = follow(&paths, &record, args);
    if args.rm {
        delete::delete_one(&paths, record)?;
    }
    Ok(result?)
}

/// Connects to the container as soon as it runs. Returns its exit code where it will not be started again, as `kubectl run` does.
fn follow(paths: &Paths, record: &PodRecord, args: &ImageArgs) -> anyhow::Result<ExitCode> {
    let spec = record.pod.spec.as_ref().context("the Pod has no spec")?;
    let container = spec.containers.first().context("the Pod has no container")?;
    let restarts = spec.restart_policy.as_deref() != Some("Never");
    let status = wait_for(paths, record, |status| {
        is_terminal(status) || container_status(status, container).is_some_and(has_begun)
    })?;
    if is_running(&status, container) {
        let ended = attach(paths, record, container, args);
        match ended {
            Ok(Ended::Exited(_)) => {}
            Ok(other) => return Ok(other.exit_code(|_| 0)),
            // It was too fast: what it wrote is in its log.
            Err(error) if is_running(&read_status(paths, record)?, container) => return Err(error),
            Err(_) => show_log(paths, record, container)?,
        }
    } else {
        show_log(paths, record, container)?;
    }
    if restarts {
        return Ok(ExitCode::SUCCESS);
    }
    let status = wait_for(paths, record, is_terminal)?;
    let terminated = container_status(&status, container)
        .and_then(|status| status.state.as_ref()?.terminated.as_ref())
        .context("how the container ended is not known")?;
    Ok(ExitCode::from(u8::try_from(terminated.exit_code).unwrap_or(1)))
}

fn attach(paths: &Paths, record: &PodRecord, container: &Container, args: &ImageArgs) -> anyhow::Result<Ended> {
    let target = Target::of(&PodRecords::new(paths.clone()), record.clone())?;
    let terminal = session_terminal(args.stdin, args.tty, false)?;
    if terminal.is_some() {
        say!("If you don't see a command prompt, try pressing enter.");
    }
    let request = Request::Attach {
        container: container.name.clone(),
        stdin: args.stdin,
        tty_size: terminal.as_ref().and_then(SessionTerminal::size),
    };
    talk(paths, &target, request, args.stdin, terminal, true)
}

/// Waits until the Pod's status is as wanted.
fn wait_for(paths: &Paths, record: &PodRecord, is_wanted: impl Fn(&PodStatus) -> bool) -> anyhow::Result<PodStatus> {
    let mut changes = Changes::of(paths)?;
    loop {
        let status = read_status(paths, record)?;
        if is_wanted(&status) {
            return Ok(status);
        }
        changes.wait(None, &[])?;
    }
}

fn read_status(paths: &Paths, record: &PodRecord) -> anyhow::Result<PodStatus> {
    let records = PodRecords::new(paths.clone());
    match records.status(&record.uid)? {
        Some(status) => Ok(status.status),
        None if records.get(&record.uid)?.is_none() => bail!("pod {:?} was deleted meanwhile", record.name),
        None => Ok(PodStatus::default()),
    }
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

fn container_status<'s>(status: &'s PodStatus, container: &Container) -> Option<&'s ContainerStatus> {
    let mut statuses = status.container_statuses.iter().flatten();
    statuses.find(|status| status.name == container.name)
}

fn has_begun(status: &ContainerStatus) -> bool {
    let state = status.state.as_ref();
    status.restart_count > 0 || state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

fn is_running(status: &PodStatus, container: &Container) -> bool {
    container_status(status, container)
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.running.is_some())
}

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
        std::io::stdout().write_all(&text)?;
        text.clear();
        if progress != Progress::More {
            return Ok(std::io::stdout().flush()?);
        }
    }
}
