//! Copies files to and from containers, by `tar` in the container.
//!
//! The caller runs the commands ([`CommandRunner`]), because the files are this host's even where the Pods are in the emulated host.

mod extract;
mod pack;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Archives end with padding, of at most so many bytes in practice.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// The streams that a command in the container needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// None. Only its exit code matters, and no message about it is wanted.
    None,
    /// Its input.
    Input,
    /// Its output.
    Output,
}

/// Runs commands in a container.
pub trait CommandRunner {
    /// A process of this machine whose streams and exit code are those of the command.
    fn command(&self, streams: Streams, command: &[&str]) -> Command;
}

/// Nothing was copied, or not all.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is nothing to copy.
    #[error("{} doesn't exist in local filesystem", path.display())]
    NotThere {
        /// Where nothing is.
        path: PathBuf,
    },
    /// Commands in the container take text only.
    #[error("the name of the file is not UTF-8")]
    NameNotText,
    /// A file cannot be put there.
    #[error("{path:?} is not the name of a file")]
    NoFileName {
        /// The path in the container.
        path: String,
    },
    /// The file here has no name to be copied under.
    #[error("{} has no name", path.display())]
    NoName {
        /// Its path.
        path: PathBuf,
    },
    /// The file here cannot be found.
    #[error("cannot read {}", path.display())]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
    /// No command can be run in the container.
    #[error("cannot run microkube exec")]
    Run(#[source] io::Error),
    /// The command was started without the pipe.
    #[error("no pipe {direction} microkube exec")]
    NoPipe {
        /// To or from.
        direction: &'static str,
    },
    /// The command failed.
    #[error("copying failed: tar in the container, or connecting to it, failed ({status})")]
    Container {
        /// How.
        status: ExitStatus,
    },
    /// The command cannot be waited for.
    #[error(transparent)]
    Io(io::Error),
    /// The archive cannot be made or unpacked.
    #[error(transparent)]
    Archive(anyhow::Error),
}

impl CopyError {
    /// As a report, in whose chain of causes an error of another module keeps its type.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Io(error) => error.into(),
            Self::Archive(error) => error,
            _ => self.into(),
        }
    }
}

/// Copies a file or a directory of this machine to a path in the container; into it, if that is a directory.
///
/// # Errors
/// See [`CopyError`].
pub fn send(
    container: &impl CommandRunner,
    source: &Path,
    path: &str,
    no_preserve: bool,
    warn: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    if std::fs::symlink_metadata(source).is_err() {
        return Err(CopyError::NotThere {
            path: source.to_owned(),
        });
    }
    let mut path = path.to_owned();
    // An error here comes again when `tar` is run, with its message.
    let mut is_dir = container.command(Streams::None, &["test", "-d", &path]);
    let is_dir = is_dir.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if is_dir.status().map_err(CopyError::Run)?.success() {
        let name = name_of(source)?;
        let name = name.to_str().ok_or(CopyError::NameNotText)?;
        path = format!("{}/{name}", path.trim_end_matches('/'));
    }
    let (dir, Some(name)) = split(&path) else {
        return Err(CopyError::NoFileName { path });
    };
    let mut command = vec!["tar"];
    if no_preserve {
        command.extend(["--no-same-permissions", "--no-same-owner"]);
    }
    command.extend(["-xmf", "-"]);
    if !dir.is_empty() {
        command.extend(["-C", dir]);
    }
    let mut exec = container.command(Streams::Input, &command);
    let mut child = start(exec.stdin(Stdio::piped()).stdout(Stdio::null()))?;
    let to = child.stdin.take().ok_or(CopyError::NoPipe { direction: "to" })?;
    let sent = pack::pack(source, OsStr::new(name), BufWriter::with_capacity(64 << 10, to), warn);
    finish(child, sent)
}

/// Copies a file, or what a directory contains, from a path in the container to one of this machine.
///
/// # Errors
/// See [`CopyError`].
pub fn fetch(
    container: &impl CommandRunner,
    path: &str,
    target: &Path,
    warn: &mut dyn FnMut(String),
) -> Result<(), CopyError> {
    let (dir, name) = split(path);
    // "./" so that no name is taken for an option.
    let entry = name.map_or_else(|| ".".to_owned(), |name| format!("./{name}"));
    let dir = if dir.is_empty() { "." } else { dir };
    let mut exec = container.command(Streams::Output, &["tar", "-cf", "-", "-C", dir, &entry]);
    let mut child = start(exec.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let from = child.stdout.take().ok_or(CopyError::NoPipe { direction: "from" })?;
    let mut from = BufReader::with_capacity(64 << 10, from);
    let extracted = extract::extract(&mut from, name.map(OsStr::new), target, warn);
    if extracted.is_ok() {
        // A pipe that is closed early would look like a failure.
        let mut padding = from.by_ref().take(MAX_PADDING_BYTES);
        io::copy(&mut padding, &mut io::sink()).map_err(CopyError::Io)?;
    }
    drop(from);
    finish(child, extracted)
}

fn start(command: &mut Command) -> Result<Child, CopyError> {
    command.spawn().map_err(CopyError::Run)
}

/// Waits for the command. If it failed, that is the cause, unless this side failed for a reason of its own.
fn finish(mut child: Child, result: anyhow::Result<()>) -> Result<(), CopyError> {
    let status: ExitStatus = child.wait().map_err(CopyError::Io)?;
    match (status.success(), result) {
        (true, result) => result.map_err(CopyError::Archive),
        (false, Err(error)) if !is_consequence(&error) => Err(CopyError::Archive(error)),
        (false, _) => Err(CopyError::Container { status }),
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
fn name_of(path: &Path) -> Result<OsString, CopyError> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let whole = std::fs::canonicalize(path).map_err(|source| CopyError::Read {
        path: path.to_owned(),
        source,
    })?;
    let name = whole.file_name().map(OsStr::to_owned);
    name.ok_or_else(|| CopyError::NoName { path: path.to_owned() })
}
