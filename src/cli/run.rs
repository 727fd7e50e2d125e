//! `microkube run`: starts a Pod's supervisor and, unless it is detached, stays attached to it until the Pod ends.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{anyhow, bail};
use futures::stream::{FuturesUnordered, StreamExt};
use microkube_manifest::Manifests;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::apply::{self, DryRun, OutputArgs};
use super::container_output::ContainerOutput;
use super::failure::Failure;
use super::generated_pod::ImageArgs;
use super::manifests::{FilenameArgs, Loaded};
use super::namespace::NamespaceArg;
use super::{attached_run, manifests, pods_host};
use crate::pod;
use crate::pod::operations::apply::Existing;
use crate::pod::operations::create::{CreateError, new_record};
use crate::pod::operations::foreground::{self, ForegroundEvent, ForegroundStartError, PodNotice, Stopper};
use crate::pod::timings::{self, Stage};
use crate::state::{Paths, PodRecord};
use crate::stderr::{self, PREFIX, report};

/// Run Pods: in the foreground, detached, or one of an image
///
/// Boots every Pod of the manifests as a microVM, shows its containers' output, and ends with the last of them. Exits with 0 if
/// every container succeeded, else with the exit code of the first that failed (128 + n for signal n), and with 2 if a
/// manifest is wrong. Ctrl-C ends the Pods gracefully, a second Ctrl-C at once.
///
/// With --detach the Pods go on without this command.
///
/// With --image no manifest is needed: a Pod of this name and image is started as `kubectl run` does it, detached unless it gets input (-i) or
/// --attach. An attached command waits until the container runs, and says why it does not. With --restart=Never it then exits with the
/// container's exit code (128 for one that could not be started). With OnFailure the container is started again until it succeeds: the
/// command waits for that, and fails if it takes longer than --pod-running-timeout. With Always it exits with 0 and says how the container
/// ended. With --rm the Pod is removed whatever ends the command, Ctrl-C included.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube run pod.yaml\n  microkube run --timings - < pod.yaml\n  microkube run -d shop/ registry-secret.yaml\n  \
                  microkube run web --image=nginx --port=80\n  microkube run job --image=busybox --restart=Never --attach -- echo hello\n  \
                  microkube run -it --rm --restart=Never sh --image=busybox"
)]
pub struct RunArgs {
    /// Manifests, YAML or JSON: files, directories (their *.yaml, *.yml and *.json), or `-` for standard input; with --image the
    /// name of the Pod
    #[arg(value_name = "PATH|NAME", required = true)]
    paths: Vec<PathBuf>,
    /// Run the Pods in the background
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    namespace: NamespaceArg,
    #[command(flatten)]
    output: OutputArgs,
    /// Show how long each stage of the start takes
    #[arg(long)]
    timings: bool,
    /// Show the log of the guest's kernel and agent
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    generated: ImageArgs,
}

impl RunArgs {
    /// Whether the Pods go on without this command.
    fn is_detached(&self) -> bool {
        self.detach || (self.generated.image.is_some() && !self.generated.stays_attached())
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.generated.rm && self.is_detached() {
            bail!("--rm should only be used for attached containers");
        }
        if self.generated.tty && !self.generated.stdin {
            bail!("stdin is required for containers with -t/--tty=true");
        }
        if self.detach && self.generated.stays_attached() {
            bail!("--detach and --attach or --stdin contradict each other");
        }
        if self.output.output.is_some() && !self.is_detached() && self.output.dry_run == DryRun::None {
            bail!("-o shows Pods that are not run in the foreground: use it with --detach or --dry-run=client");
        }
        Ok(())
    }

    fn load(&self) -> Result<Loaded, Failure> {
        match (&self.generated.image, self.paths.as_slice()) {
            (None, paths) => manifests::load_into(&FilenameArgs::of(paths), &self.namespace),
            (Some(image), [name]) => self.generated.pod(&name.to_string_lossy(), image, &self.namespace),
            (Some(_), names) => Err(Failure::usage(anyhow!(
                "--image makes one Pod, but {} names were given",
                names.len()
            ))),
        }
    }
}

/// Runs the verb.
pub(super) fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    args.check().map_err(Failure::usage)?;
    let loaded = args.load()?;
    if args.is_detached() || args.output.dry_run == DryRun::Client {
        return apply::start_all(loaded, &args.output, Existing::Refuse);
    }
    if args.generated.image.is_some() {
        return attached_run::run(loaded, &args.generated);
    }
    let Loaded {
        manifests,
        consumed_stdin,
    } = loaded;
    if let Some(exit_code) = pods_host::delegate_unless_kvm_works(consumed_stdin.as_deref())? {
        return Ok(exit_code);
    }
    for warning in &manifests.warnings {
        report!("warning: {warning}");
    }
    let manifest_stage = Stage::since("manifest", start);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(run_all(manifests, &args, manifest_stage));
    // A blocked write to a terminal that is stopped must not keep this process from ending.
    runtime.shutdown_background();
    Ok(exit_code?)
}

/// Runs the Pods, all at the same time.
async fn run_all(manifests: Manifests, args: &RunArgs, manifest_stage: Stage) -> anyhow::Result<ExitCode> {
    // From here on a signal must end the Pods, not this process.
    let mut signals = Signals::new()?;
    let paths = Paths::from_env();
    paths.create()?;
    pod::sweep(&paths).await?;

    let records = manifests.pods.iter().map(|pod| new_record(pod, &manifests, false));
    let records = records
        .collect::<Result<Vec<_>, _>>()
        .map_err(CreateError::into_report)?;
    let several = records.len() > 1;
    let (asked, _) = watch::channel(0_usize);
    let mut running: FuturesUnordered<_> = records
        .into_iter()
        .map(|record| {
            let label = several.then(|| label(&record));
            let run = run_attached(record, args, label.clone(), manifest_stage.clone(), asked.subscribe());
            async move { (label, run.await) }
        })
        .collect();
    let what = if several { "Pods" } else { "Pod" };
    let mut first_failure = None;
    loop {
        tokio::select! {
            number = signals.next() => {
                let again = *asked.borrow() > 0;
                report!("{}", if again { format!("killing the {what}") } else { format!("ending the {what} (Ctrl-C again kills)") });
                tracing::debug!("received signal {number}");
                asked.send_modify(|times| *times += 1);
            }
            ended = running.next() => match ended {
                Some((_, Ok(0))) => {}
                Some((_, Ok(exit_code))) => {
                    first_failure.get_or_insert(exit_code);
                }
                Some((None, Err(error))) => return Err(error),
                Some((Some(label), Err(error))) => {
                    report!("Pod {label}: {error:#}");
                    first_failure.get_or_insert(1);
                }
                None => return Ok(ExitCode::from(first_failure.unwrap_or(0))),
            },
        }
    }
}

/// How a Pod is called where there are several.
fn label(record: &PodRecord) -> String {
    match record.namespace.as_str() {
        "default" => record.name.clone(),
        namespace => format!("{namespace}/{}", record.name),
    }
}

/// Runs a Pod and returns its exit code. With a `label` there are others, and everything shown has the label in front.
async fn run_attached(
    record: PodRecord,
    args: &RunArgs,
    label: Option<String>,
    manifest_stage: Stage,
    mut asked: watch::Receiver<usize>,
) -> anyhow::Result<u8> {
    let paths = Paths::from_env();
    let names: Vec<String> = pod::containers(&record.pod)
        .map(|container| match &label {
            Some(label) => format!("{label}/{}", container.name),
            None => container.name.clone(),
        })
        .collect();
    let mut pod = foreground::start(paths, record, args.debug)
        .await
        .map_err(ForegroundStartError::into_report)?;
    let stopper = pod.stopper();
    tokio::spawn(async move {
        while asked.changed().await.is_ok() {
            let times = *asked.borrow_and_update();
            if times > 1 {
                stopper.kill().await;
            } else {
                stopper.terminate_or_kill().await;
            }
        }
    });

    let mut view = View {
        output: ContainerOutput::new(names.clone(), label.is_some() || names.len() > 1),
        names,
        prefix: label.map(|label| format!("Pod {label}: ")).unwrap_or_default(),
        timings: args.timings.then_some(manifest_stage),
        pulling: None,
        output_broken: false,
        stopper: pod.stopper(),
    };
    loop {
        match pod.next().await {
            Ok(ForegroundEvent::Notice(PodNotice::Finished { exit_code, error })) => {
                view.end_progress();
                if let Some(error) = error {
                    report!("{}{error}", view.prefix);
                }
                return Ok(exit_code);
            }
            Ok(event) => view.show(event).await,
            Err(error) => {
                view.end_progress();
                return Err(error.into_report());
            }
        }
    }
}

/// The signals that ask for the Pod's end.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
    quit: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => libc::SIGINT,
            _ = self.terminate.recv() => libc::SIGTERM,
            _ = self.hangup.recv() => libc::SIGHUP,
            _ = self.quit.recv() => libc::SIGQUIT,
        }
    }
}

/// What the user sees.
struct View {
    output: ContainerOutput,
    names: Vec<String>,
    /// Before messages about the Pod, where there are several.
    prefix: String,
    /// The first stage, if the stages are to be shown.
    timings: Option<Stage>,
    pulling: Option<String>,
    output_broken: bool,
    stopper: Stopper,
}

impl View {
    async fn show(&mut self, event: ForegroundEvent) {
        match event {
            ForegroundEvent::Output {
                container,
                stream,
                bytes,
            } => {
                if self.output_broken {
                    return;
                }
                if let Err(error) = self.output.write(container, stream, &bytes).await {
                    // As with `kubectl logs -f | head`: nobody reads any more, so there is no reason to go on.
                    self.output_broken = true;
                    tracing::info!("output cannot be written: {error}");
                    self.stopper.terminate().await;
                }
            }
            // Not tokio's: each of its handles writes in the background, and two of them in any order.
            ForegroundEvent::GuestLog(bytes) => stderr::write_bytes(&bytes),
            ForegroundEvent::Notice(notice) => self.note(notice),
        }
    }

    fn note(&mut self, notice: PodNotice) {
        match notice {
            PodNotice::Warning(text) => report!("{}{text}", self.prefix),
            PodNotice::PullProgress {
                image,
                received_bytes,
                total_bytes,
            } => self.progress(&image, received_bytes, total_bytes),
            PodNotice::Pulled { .. } => self.end_progress(),
            PodNotice::Running { pod_ip, stages } => self.running(&pod_ip, stages),
            PodNotice::ContainerEnded {
                container,
                exit_code,
                reason,
                message,
            } => {
                // A container's own failure is its own to explain; what it cannot say itself is said here.
                if !matches!(reason.as_str(), "Completed" | "Error") {
                    let name = self.names.get(usize::from(container)).map_or("?", String::as_str);
                    let message = message.map(|message| format!(": {message}")).unwrap_or_default();
                    report!("container {name:?} ended with exit code {exit_code} ({reason}){message}");
                }
            }
            PodNotice::Finished { .. } => {}
        }
    }

    fn running(&mut self, pod_ip: &str, stages: Vec<Stage>) {
        if let Some(first) = self.timings.take() {
            let mut all = vec![first];
            all.extend(stages);
            if !self.prefix.is_empty() {
                report!("{}running", self.prefix);
            }
            stderr::write(format_args!("{}", timings::table(&all)));
        }
        tracing::info!("the Pod runs with the address {pod_ip}");
        if std::io::stderr().is_terminal() {
            report!("{}the Pod is running, its address is {pod_ip}", self.prefix);
        }
    }

    fn progress(&mut self, image: &str, received_bytes: u64, total_bytes: Option<u64>) {
        let first = self.pulling.as_deref() != Some(image);
        self.pulling = Some(image.to_owned());
        if std::io::stderr().is_terminal() {
            let total = total_bytes
                .map(|total| format!(" of {}", mebibytes(total)))
                .unwrap_or_default();
            stderr::write(format_args!(
                "\r\x1b[K{PREFIX}pulling {image}: {}{total}",
                mebibytes(received_bytes)
            ));
        } else if first {
            report!("pulling {image}");
        }
    }

    fn end_progress(&mut self) {
        if self.pulling.take().is_some() && std::io::stderr().is_terminal() {
            stderr::write(format_args!("\r\x1b[K"));
        }
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{}.{} MiB", bytes >> 20, ((bytes & 0xf_ffff) * 10) >> 20)
}
