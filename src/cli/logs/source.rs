//! The source of a log: a container.

use std::path::PathBuf;

use super::super::stream::running::{described, is_running, is_start_error, last_end};
use crate::pod::operations::logs::{self, LogError};
use crate::pod::recorded_pod::RecordedPod;
use crate::state::Paths;

/// A container whose log is shown.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) target: RecordedPod,
    pub(super) container: String,
}

impl Source {
    /// The container's log directory and the selected attempt.
    pub(super) fn log(&self, paths: &Paths, previous: bool) -> Result<(PathBuf, u32), LogError> {
        logs::find(paths, &self.target, &self.container, previous)
    }

    /// The message for a container without output because it could not be started.
    pub(super) fn start_error(&self) -> Option<String> {
        let (status, container) = (&self.target.status, self.container.as_str());
        let end = last_end(status, container).filter(|end| is_start_error(end) && !is_running(status, container))?;
        let pod = &self.target.record.name;
        Some(format!("container {container:?} in pod {pod:?} {}", described(end)))
    }
}
