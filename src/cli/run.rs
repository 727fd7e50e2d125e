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

use super::apply::{self, Writing};
use super::container_output::ContainerOutput;
use super::failure::Failure;
use super::generated_pod::ImageArgs;
use super::manifests::{FilenameArgs, Loaded};
use super::namespace::NamespaceArg;
use super::object_failure::as_kubectl_error;
use super::objects::dry_run::DryRun;
use super::results::OutputArgs;
use super::save_config::SaveConfigArg;
use super::{attached_run, manifests, pods_host};
use crate::objects::{Objects, Overwrite};
use crate::pod;
use crate::pod::operations::create::new_record;
use crate::pod::operations::foreground::{self, ForegroundEvent, ForegroundStartError, PodNotice, Stopper};
use crate::pod::timings::{self, Stage};
use crate::state::{Paths, PodRecord};
use crate::stderr::{self, PREFIX, report};

/// Run Pods from manifests, or create and run an image in a Pod
///
/// Writes the manifests' other objects as `apply` does, boots each Pod as a microVM, shows the output of its
/// containers, and returns when all Pods have ended. Exits with 0 if all containers succeeded, with 2 if a manifest is
/// invalid, and otherwise with the exit code of the first container that failed (128 + n if signal n ended it). Ctrl-C
/// stops the Pods gracefully; a second Ctrl-C kills them.
///
/// With --detach, the Pods run in the background.
///
/// With --image, no manifest is needed: like `kubectl run`, the command creates a Pod with this name and image. The Pod
/// runs in the background unless -i or --attach is given. An attached command waits for the container to run, and
/// meanwhile reports why it is not running. Its exit code depends on --restart:
///
/// Never: the container's exit code, or 128 if the container could not be started.
///
/// OnFailure: the container is restarted until it succeeds; the command fails if that takes longer than
/// --pod-running-timeout.
///
/// Always: 0; the command reports how the container ended.
///
/// With --rm, the Pod is deleted when the command ends, even after Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube run pod.yaml\n  microkube run --timings - < pod.yaml\n  microkube run -d shop/ registry-secret.yaml\n  \
                  microkube run web --image=nginx --port=80\n  microkube run job --image=busybox --restart=Never --attach -- echo hello\n  \
                  microkube run -it --rm --restart=Never sh --image=busybox"
)]
pub struct RunArgs {
    /// Manifests in YAML or JSON: files, directories (*.yaml, *.yml, *.json), or `-` for stdin; with --image, the name
    /// of the Pod
    #[arg(value_name = "PATH|NAME", required = true)]
    paths: Vec<PathBuf>,
    /// Run the Pods in the background
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    namespace: NamespaceArg,
    #[command(flatten)]
    output: OutputArgs,
    /// Show how long each stage of startup takes
    #[arg(long)]
    timings: bool,
    /// Show the log of the guest kernel and agent
    #[arg(long)]
    debug: bool,
    #[command(flatten)]
    generated: ImageArgs,
    #[command(flatten)]
    save_config: SaveConfigArg,
}

impl RunArgs {
    /// Whether the Pods run independently of this command.
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
            bail!("--detach cannot be combined with --attach or --stdin");
        }
        if self.output.format.is_given() && !self.is_detached() && self.output.dry_run == DryRun::None {
            bail!("-o requires --detach or --dry-run");
        }
        Ok(())
    }

    fn load(&self) -> Result<Loaded, Failure> {
        match (&self.generated.image, self.paths.as_slice()) {
            (None, paths) => manifests::load_into(&FilenameArgs::of(paths), &self.namespace),
            (Some(image), [name]) => self.generated.pod(&name.to_string_lossy(), image, &self.namespace),
            (Some(_), names) => Err(Failure::from(anyhow!(
                "--image creates one Pod and needs one name, but {} were given",
                names.len()
            ))),
        }
    }
}

pub(super) fn run(args: RunArgs) -> Result<ExitCode, Failure> {
    let start = Instant::now();
    args.check().map_err(Failure::from)?;
    let mut loaded = args.load()?;
    let manifests = &mut loaded.manifests;
    for (pod, written) in manifests.pods.iter_mut().zip(&manifests.written) {
        *pod = args
            .save_config
            .pod(pod, written)
            .map_err(|error| Failure::from(as_kubectl_error(error, None)))?;
    }
    if args.is_detached() || args.output.dry_run != DryRun::None {
        return apply::start_all(
            loaded,
            &args.output,
            Writing::Apply(Overwrite::Always),
            Writing::Create(args.save_config),
        );
    }
    if args.generated.image.is_some() {
        return attached_run::run(loaded, &args.generated);
    }
    let Loaded {
        mut manifests,
        configurations,
        consumed_stdin,
        ..
    } = loaded;
    if let Some(exit_code) = pods_host::delegate_unless_kvm_works(consumed_stdin.as_deref())? {
        return Ok(exit_code);
    }
    pod::boot_timeout()?;
    let paths = Paths::from_env();
    let objects = Objects::open(&paths).map_err(|error| as_kubectl_error(error, None))?;
    apply::write_first(&paths, &objects, &configurations)?;
    apply::prepare_for_pods(&objects, &mut manifests).map_err(|error| as_kubectl_error(error, None))?;
    let manifest_stage = Stage::since("manifest", start);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let exit_code = runtime.block_on(run_all(manifests, &args, manifest_stage));
    // A blocked write to a stopped terminal must not keep this process from ending.
    runtime.shutdown_background();
    Ok(exit_code?)
}

/// Runs the Pods concurrently.
async fn run_all(manifests: Manifests, args: &RunArgs, manifest_stage: Stage) -> anyhow::Result<ExitCode> {
    // From here on a signal must end the Pods, not this process.
    let mut signals = Signals::new()?;
    let paths = Paths::from_env();
    paths.create()?;
    pod::sweep(&paths).await?;

    let records = manifests.pods.iter().map(|pod| new_record(pod, false));
    let records: Vec<PodRecord> = records.collect();
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
                report!("{}", if again { format!("killing the {what}") } else { format!("stopping the {what} (press Ctrl-C again to kill)") });
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

/// The Pod's name in output if there are several.
fn label(record: &PodRecord) -> String {
    match record.namespace.as_str() {
        "default" => record.name.clone(),
        namespace => format!("{namespace}/{}", record.name),
    }
}

/// Runs a Pod and returns its exit code. A `label` means that there are several Pods; it then precedes all output.
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

/// The signals that end the Pod.
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

/// Writes what the user sees.
struct View {
    output: ContainerOutput,
    names: Vec<String>,
    /// Precedes messages about the Pod if there are several.
    prefix: String,
    /// The first stage, if the stages are shown (`--timings`).
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
                    // As with `kubectl logs -f | head`: the output is closed, so there is no reason to continue.
                    self.output_broken = true;
                    tracing::info!("cannot write output: {error}");
                    self.stopper.terminate().await;
                }
            }
            // Do not use tokio's standard error: each handle writes in the background, and two handles in any order.
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
                // A failed container explains itself; other failures are reported here.
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
        tracing::info!("the Pod is running with IP address {pod_ip}");
        if std::io::stderr().is_terminal() {
            report!("{}the Pod is running; its IP address is {pod_ip}", self.prefix);
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
