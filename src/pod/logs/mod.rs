//! Containers' output on disk, in the CRI's log format: written by the supervisor, read by `logs`.
//!
//! A container has a directory, an attempt of it a series of files: `ATTEMPT.log` is written to, `ATTEMPT.log.1` is the one before
//! it, and so on. Whose output it is, and when a container is over, is known by others.

mod files;
mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod reader;
mod record;
mod tail;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::path::PathBuf;

pub use files::{attempts, has_log};
pub use reader::{LogReader, Progress, ReadOptions};
pub use watch::DirectoryWatch;
pub use writer::{Limits, LogWriter};

use crate::state::Paths;

/// The directory with the logs of one container.
#[must_use]
pub fn container_dir(paths: &Paths, uid: &str, container: &str) -> PathBuf {
    paths.pod_state(uid).join("logs").join(container)
}
