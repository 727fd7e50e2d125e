//! Containers' output on disk, in the CRI's log format: written by the supervisor, read by `logs`.
//!
//! Each container has a directory, and each attempt a series of files: `ATTEMPT.log` is being written, `ATTEMPT.log.1`
//! is the previous file, and so on. Whose output it is, and when a container is over, is decided elsewhere.

mod files;
mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod output;
mod reader;
mod record;
mod tail;
#[cfg(test)]
mod tests;
mod watch;
mod writer;

use std::path::PathBuf;

pub use files::{attempts, has_log, total_bytes};
pub use output::OutputReader;
pub use reader::{LogReader, Progress, ReadOptions};
pub use record::Positions;
pub use watch::DirectoryWatch;
pub use writer::{Limits, LogWriter};

use crate::state::Paths;

/// The log directory of a container.
#[must_use]
pub fn container_dir(paths: &Paths, uid: &str, container: &str) -> PathBuf {
    paths.pod_state(uid).join("logs").join(container)
}
