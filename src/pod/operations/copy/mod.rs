//! Copies files to and from containers with the container's `tar`.
//!
//! The caller provides a [`CommandRunner`]: the files are on this host even if the Pods are in the emulated host.

mod extract;
mod pack;
#[cfg(test)]
mod tests;

use std::ffi::{OsStr, OsString};
use std::io::{self, BufReader, BufWriter, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

/// Upper bound for the padding at the end of an archive, in practice.
const MAX_PADDING_BYTES: u64 = 1 << 20;

/// Which streams the command in the container uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// None: only the exit code counts, and the command prints no messages.
    None,
    Input,
    Output,
}

/// Runs commands in a container.
pub trait CommandRunner {
    /// A local process whose streams and exit code are those of the command.
    fn command(&self, streams: Streams, command: &[&str]) -> Command;
}

/// The copy failed, perhaps after a part was copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The source does not exist.
    #[error("{} doesn't exist in local filesystem", path.display())]
    NotThere {
        /// The missing path.
        path: PathBuf,
    },
    /// The path is not valid UTF-8, as commands in the container require.
    #[error("the name of the file is not UTF-8")]
    NameNotText,
    /// The destination in the container is not a valid file name.
    #[error("{path:?} is not a file name")]
    NoFileName {
        /// The path in the container.
        path: String,
    },
    /// The local file's path has no file name.
    #[error("{} has no name", path.display())]
    NoName {
        /// Its path.
        path: PathBuf,
    },
    /// The local file's metadata cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The command could not be run in the container.
    #[error("cannot run microkube exec")]
    Run(#[source] io::Error),
    /// The command was started without a pipe.
    #[error("cannot open the pipe {direction} microkube exec")]
    NoPipe {
        /// `to` or `from`.
        direction: &'static str,
    },
    /// The command in the container failed.
    #[error("copying failed: cannot connect to the container, or tar failed in it ({status})")]
    Container {
        /// Its exit status.
        status: ExitStatus,
    },
    /// The command could not be waited for.
    #[error(transparent)]
    Io(io::Error),
    /// The archive could not be created or extracted.
    #[error(transparent)]
    Archive(anyhow::Error),
}

impl CopyError {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Io(error) => error.into(),
            Self::Archive(error) => error,
            _ => self.into(),
        }
    }
}

/// Copies a local file or directory to a path in the container, or into it if it is a directory.
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
    // If this fails, `tar` fails in the same way and shows the message.
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

/// Copies a file, or a directory's content, from a path in the container to a local path.
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
    // "./" keeps the name from being parsed as an option.
    let entry = name.map_or_else(|| ".".to_owned(), |name| format!("./{name}"));
    let dir = if dir.is_empty() { "." } else { dir };
    let mut exec = container.command(Streams::Output, &["tar", "-cf", "-", "-C", dir, &entry]);
    let mut child = start(exec.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let from = child.stdout.take().ok_or(CopyError::NoPipe { direction: "from" })?;
    let mut from = BufReader::with_capacity(64 << 10, from);
    let extracted = extract::extract(&mut from, name.map(OsStr::new), target, warn);
    if extracted.is_ok() {
        // Read the padding: closing the pipe early would make `tar` fail.
        let mut padding = from.by_ref().take(MAX_PADDING_BYTES);
        io::copy(&mut padding, &mut io::sink()).map_err(CopyError::Io)?;
    }
    drop(from);
    finish(child, extracted)
}

fn start(command: &mut Command) -> Result<Child, CopyError> {
    command.spawn().map_err(CopyError::Run)
}

/// Waits for the command. Its failure is reported as the cause, unless this side has an independent error.
fn finish(mut child: Child, result: anyhow::Result<()>) -> Result<(), CopyError> {
    let status: ExitStatus = child.wait().map_err(CopyError::Io)?;
    match (status.success(), result) {
        (true, result) => result.map_err(CopyError::Archive),
        (false, Err(error)) if !is_consequence(&error) => Err(CopyError::Archive(error)),
        (false, _) => Err(CopyError::Container { status }),
    }
}

/// Whether this error on our side results from the command's failure.
fn is_consequence(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof))
}

/// Splits a path in the container into directory and name. There is no name if the path can only be a directory (`/`,
/// `.`, `a/..`).
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
