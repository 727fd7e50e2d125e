//! `microkube cp`: copies files to and from containers, by `tar` in the container.
//!
//! The container is reached with `microkube exec`, as a process of its own: the files are this machine's even where the Pods are in the
//! emulated host.

mod extract;
mod pack;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context as _, bail};

use super::completion;
use super::failure::Failure;
use super::print::for_terminal;
use crate::child;
use crate::stderr::say;

/// Archives end with padding, of at most so many bytes in practice.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// Copy files to and from containers
///
/// One of the two is POD:PATH or NAMESPACE/POD:PATH. Directories are copied with all they contain. The container needs `tar`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube cp index.html web:/usr/share/nginx/html\n  microkube cp -c sidecar web:/var/log/app ./logs\n  microkube cp shop/web:/etc/hosts ./hosts"
)]
pub struct CpArgs {
    /// What to copy
    #[arg(value_name = "SOURCE", add = completion::files_and_pods())]
    source: OsString,
    /// Where to
    #[arg(value_name = "TARGET", add = completion::files_and_pods())]
    target: OsString,
    /// The container [default: the Pod's default or first container]
    #[arg(short, long, value_name = "NAME", add = completion::containers())]
    container: Option<String>,
    /// Do not keep owners and permissions in the container
    #[arg(long)]
    no_preserve: bool,
    /// The Pod's namespace, where it is not named with the Pod
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    namespace: String,
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Local(PathBuf),
    Remote {
        namespace: Option<String>,
        pod: String,
        path: String,
    },
}

impl Place {
    /// Understands `PATH`, `POD:PATH` and `NAMESPACE/POD:PATH`. A local path with a colon is written with a `/` before it.
    fn parse(text: &OsStr) -> anyhow::Result<Self> {
        if text.is_empty() {
            bail!("filepath can not be empty");
        }
        let local = || Self::Local(PathBuf::from(text));
        let Some(known) = text.to_str() else {
            return Ok(local());
        };
        let Some((pod, path)) = known.split_once(':') else {
            return Ok(local());
        };
        let pieces: Vec<&str> = pod.split('/').collect();
        let (namespace, pod) = match pieces.as_slice() {
            // ./a:b and /a/b:c are paths.
            ["" | "." | "..", _, ..] => return Ok(local()),
            [pod] if !pod.is_empty() => (None, *pod),
            [namespace, pod] if !pod.is_empty() => (Some((*namespace).to_owned()), *pod),
            _ => bail!("filespec must match the canonical format: [[namespace/]pod:]file/path"),
        };
        if path.is_empty() {
            bail!("filepath can not be empty");
        }
        Ok(Self::Remote {
            namespace,
            pod: pod.to_owned(),
            path: path.to_owned(),
        })
    }
}

/// Runs the verb.
pub(super) fn run(args: CpArgs) -> Result<ExitCode, Failure> {
    let place = |text: &OsStr| Place::parse(text).map_err(Failure::usage);
    let (source, target) = (place(&args.source)?, place(&args.target)?);
    let remote = |namespace: Option<String>, pod: String| -> anyhow::Result<Remote> {
        Ok(Remote {
            program: std::env::current_exe().context("cannot find this program")?,
            namespace: namespace.unwrap_or_else(|| args.namespace.clone()),
            pod,
            container: args.container.clone(),
        })
    };
    match (source, target) {
        (Place::Local(local), Place::Remote { namespace, pod, path }) => {
            remote(namespace, pod)?.send(&local, &path, args.no_preserve, &mut warn)?;
        }
        (Place::Remote { namespace, pod, path }, Place::Local(local)) => {
            remote(namespace, pod)?.fetch(&path, &local, &mut warn)?;
        }
        _ => {
            let error = anyhow::anyhow!("one of src or dest must be a local file specification, the other of a Pod");
            return Err(Failure::usage(error));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn warn(text: String) {
    say!("{}", for_terminal(&text));
}

/// The container to copy to or from.
#[derive(Debug)]
struct Remote {
    program: PathBuf,
    namespace: String,
    pod: String,
    container: Option<String>,
}

impl Remote {
    /// `microkube exec` of this in the container.
    fn exec(&self, options: &[&str], command: &[&str]) -> Command {
        let mut exec = child::command(&self.program);
        exec.arg("exec")
            .args(options)
            .arg(format!("--namespace={}", self.namespace));
        if let Some(container) = &self.container {
            exec.arg(format!("--container={container}"));
        }
        exec.arg(format!("pod/{}", self.pod)).arg("--").args(command);
        exec
    }

    /// Copies to the container.
    fn send(&self, source: &Path, path: &str, no_preserve: bool, warn: &mut dyn FnMut(String)) -> anyhow::Result<()> {
        if std::fs::symlink_metadata(source).is_err() {
            bail!("{} doesn't exist in local filesystem", source.display());
        }
        let mut path = path.to_owned();
        // Whatever keeps this from being said is said when `tar` is run.
        let mut is_dir = self.exec(&["--quiet"], &["test", "-d", &path]);
        let is_dir = is_dir.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if is_dir.status().context("cannot run microkube exec")?.success() {
            let name = name_of(source)?;
            let name = name.to_str().context("the name of the file is not UTF-8")?;
            path = format!("{}/{name}", path.trim_end_matches('/'));
        }
        let (dir, name) = split(&path);
        let Some(name) = name else {
            bail!("{path:?} is not the name of a file");
        };
        let mut command = vec!["tar"];
        if no_preserve {
            command.extend(["--no-same-permissions", "--no-same-owner"]);
        }
        command.extend(["-xmf", "-"]);
        if !dir.is_empty() {
            command.extend(["-C", dir]);
        }
        let mut exec = self.exec(&["--stdin"], &command);
        let mut child = start(exec.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        let to = child.stdin.take().context("no pipe to microkube exec")?;
        let sent = pack::pack(source, OsStr::new(name), BufWriter::with_capacity(64 << 10, to), warn);
        finish(child, sent)
    }

    /// Copies from the container.
    fn fetch(&self, path: &str, target: &Path, warn: &mut dyn FnMut(String)) -> anyhow::Result<()> {
        let (dir, name) = split(path);
        // "./" so that no name is taken for an option.
        let entry = name.map_or_else(|| ".".to_owned(), |name| format!("./{name}"));
        let dir = if dir.is_empty() { "." } else { dir };
        let mut exec = self.exec(&[], &["tar", "-cf", "-", "-C", dir, &entry]);
        let mut child = start(exec.stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let from = child.stdout.take().context("no pipe from microkube exec")?;
        let mut from = BufReader::with_capacity(64 << 10, from);
        let extracted = extract::extract(&mut from, name.map(OsStr::new), target, warn);
        if extracted.is_ok() {
            // A pipe that is closed early would look like a failure.
            io::copy(&mut from.by_ref().take(MAX_PADDING_BYTES), &mut io::sink())?;
        }
        drop(from);
        finish(child, extracted)
    }
}

fn start(command: &mut Command) -> anyhow::Result<Child> {
    command.spawn().context("cannot run microkube exec")
}

/// Waits for the other side. What it says on standard error is the cause of what fails here; if it says nothing, this is.
fn finish(mut child: Child, result: anyhow::Result<()>) -> anyhow::Result<()> {
    let status: ExitStatus = child.wait()?;
    match (status.success(), result) {
        (true, result) => result,
        (false, Err(error)) if !is_consequence(&error) => Err(error),
        (false, _) => bail!("copying failed: tar in the container, or connecting to it, failed ({status})"),
    }
}

/// Whether this side fails because the other did.
fn is_consequence(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof))
}

/// Directory and name of a path in the container; no name for what is only a directory (`/`, `.`, `a/..`).
fn split(path: &str) -> (&str, Option<&str>) {
    let trimmed = match path.trim_end_matches('/') {
        "" => return ("/", None),
        trimmed => trimmed,
    };
    let (dir, name) = match trimmed.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => ("", trimmed),
    };
    match name {
        "." | ".." => (trimmed, None),
        name => (dir, Some(name)),
    }
}

/// The name of a local file or directory.
fn name_of(path: &Path) -> anyhow::Result<OsString> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let whole = std::fs::canonicalize(path).with_context(|| format!("cannot read {}", path.display()))?;
    let name = whole
        .file_name()
        .with_context(|| format!("{} has no name", path.display()))?;
    Ok(name.to_owned())
}
