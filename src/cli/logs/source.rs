//! Which log of a container is meant, by the kubelet's rules.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ContainerState;

use super::super::stream::running::{described, is_running, is_start_error, last_end};
use super::super::stream::target::Target;
use crate::pod::logs::{attempts, container_dir};
use crate::state::Paths;

/// A container of which the log is wanted.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) target: Target,
    pub(super) container: String,
}

impl Source {
    /// The container's directory of logs and the attempt that is meant.
    pub(super) fn log(&self, paths: &Paths, previous: bool) -> anyhow::Result<(PathBuf, u32)> {
        let (container, pod) = (&self.container, &self.target.record.name);
        let no_previous = || format!("previous terminated container {container:?} in pod {pod:?} not found");
        let status = self.target.container_status(container);
        let Some(status) = status else {
            bail!("container {container:?} in pod {pod:?} is not available");
        };
        let none = ContainerState::default();
        let state = status.state.as_ref().unwrap_or(&none);
        let last = status.last_state.as_ref().unwrap_or(&none);
        if previous && last.terminated.is_none() {
            bail!(no_previous());
        }
        let is_started = state.running.is_some() || state.terminated.is_some();
        if !is_started && last.terminated.is_none() {
            match state
                .waiting
                .as_ref()
                .map(|waiting| waiting.reason.as_deref().unwrap_or_default())
            {
                Some("ErrImagePull") => {
                    bail!("container {container:?} in pod {pod:?} is waiting to start: image can't be pulled")
                }
                Some("ImagePullBackOff") => {
                    bail!(
                        "container {container:?} in pod {pod:?} is waiting to start: trying and failing to pull image"
                    )
                }
                Some(reason) => bail!("container {container:?} in pod {pod:?} is waiting to start: {reason}"),
                None => bail!("container {container:?} in pod {pod:?} is waiting to start - no logs yet"),
            }
        }
        let dir = container_dir(paths, &self.target.record.uid, container);
        let attempts = attempts(&dir).with_context(|| format!("there is no log of container {container:?}"))?;
        // While a container waits for its next start, its last end is what both the last and the previous log are of. A start that is under
        // way may have its log already: which attempts have ended is for the status to say.
        let ended = || attempt_of(last.terminated.as_ref()?.container_id.as_deref()?, container);
        let attempt = match is_started {
            true if !previous => attempts.last().copied(),
            _ => match ended().filter(|ended| attempts.contains(ended)) {
                Some(ended) => Some(ended),
                None => attempts.iter().rev().nth(usize::from(previous && is_started)).copied(),
            },
        };
        match attempt {
            Some(attempt) => Ok((dir, attempt)),
            None if previous => bail!(no_previous()),
            None => bail!("there is no log of container {container:?}"),
        }
    }
}

impl Source {
    /// What there is to say of a container that has written nothing because it could not be started.
    pub(super) fn start_error(&self) -> Option<String> {
        let (status, container) = (&self.target.status, self.container.as_str());
        let end = last_end(status, container).filter(|end| is_start_error(end) && !is_running(status, container))?;
        let pod = &self.target.record.name;
        Some(format!("container {container:?} in pod {pod:?} {}", described(end)))
    }
}

/// The attempt in a `containerID`, `NAME-ATTEMPT`.
fn attempt_of(container_id: &str, container: &str) -> Option<u32> {
    container_id.strip_prefix(container)?.strip_prefix('-')?.parse().ok()
}
