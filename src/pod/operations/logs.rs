//! Selects a container's log by the kubelet's rules, and detects when it is complete.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, ContainerState, Pod};

use crate::pod::container_order;
use crate::pod::logs::{DirectoryWatch, attempts, container_dir};
use crate::pod::recorded_pod::{self, RecordedPod};
use crate::state::{Paths, PodRecords, RecordsError};

/// The requested log is not available.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is no status for the container yet.
    #[error("container {container:?} in pod {pod:?} is not available")]
    NotAvailable {
        /// Name of the container.
        container: String,
        /// Name of the Pod.
        pod: String,
    },
    /// The container was not restarted, so it has no previous log.
    #[error("previous terminated container {container:?} in pod {pod:?} not found")]
    NoPrevious {
        /// Name of the container.
        container: String,
        /// Name of the Pod.
        pod: String,
    },
    /// The container has not started.
    #[error("container {container:?} in pod {pod:?} is waiting to start{why}")]
    Waiting {
        container: String,
        pod: String,
        why: String,
    },
    /// The log files do not exist.
    #[error("container {container:?} has no log")]
    NoLog {
        container: String,
        #[source]
        source: Option<std::io::Error>,
    },
}

/// Returns a container's log directory and the attempt whose log was requested: the last one or, with `previous`, the
/// one before.
///
/// # Errors
/// See [`LogError`].
pub fn find(paths: &Paths, target: &RecordedPod, container: &str, previous: bool) -> Result<(PathBuf, u32), LogError> {
    let name = || container.to_owned();
    let pod = || target.record.name.clone();
    let no_previous = || LogError::NoPrevious {
        container: name(),
        pod: pod(),
    };
    let Some(status) = target.container_status(container) else {
        return Err(LogError::NotAvailable {
            container: name(),
            pod: pod(),
        });
    };
    let none = ContainerState::default();
    let state = status.state.as_ref().unwrap_or(&none);
    let last = status.last_state.as_ref().unwrap_or(&none);
    if previous && last.terminated.is_none() {
        return Err(no_previous());
    }
    let is_started = state.running.is_some() || state.terminated.is_some();
    if !is_started && last.terminated.is_none() {
        let waiting = state.waiting.as_ref();
        let why = match waiting.map(|waiting| waiting.reason.as_deref().unwrap_or_default()) {
            Some("ErrImagePull") => ": image can't be pulled".to_owned(),
            Some("ImagePullBackOff") => ": trying and failing to pull image".to_owned(),
            Some(reason) => format!(": {reason}"),
            None => " - no logs yet".to_owned(),
        };
        return Err(LogError::Waiting {
            container: name(),
            pod: pod(),
            why,
        });
    }
    let dir = container_dir(paths, &target.record.uid, container);
    let attempts = attempts(&dir).map_err(|source| LogError::NoLog {
        container: name(),
        source: Some(source),
    })?;
    // While a container waits for its next start, both the current and the previous log are the log of the attempt that
    // ended last. A start in progress may have created its log already, so only the status shows which attempts have
    // ended.
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
        None if previous => Err(no_previous()),
        None => Err(LogError::NoLog {
            container: name(),
            source: None,
        }),
    }
}

/// Parses the attempt from a `containerID`, `NAME-ATTEMPT`.
#[must_use]
pub fn attempt_of(container_id: &str, container: &str) -> Option<u32> {
    container_id.strip_prefix(container)?.strip_prefix('-')?.parse().ok()
}

/// Waits until the container has ended for good, or its Pod is gone.
pub async fn wait_until_over(paths: &Paths, uid: &str, container: &str) {
    let records = PodRecords::new(paths.clone());
    // The directory disappears with the Pod.
    let Ok(mut changes) = DirectoryWatch::new(&[&paths.pod_state(uid)]) else {
        return;
    };
    loop {
        match is_over(&records, uid, container) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => tracing::warn!("cannot read the state of Pod {uid}: {error}"),
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn is_over(records: &PodRecords, uid: &str, container: &str) -> Result<bool, RecordsError> {
    let Some(record) = records.get(uid)? else {
        return Ok(true);
    };
    let Some(status) = records.status(uid)? else {
        return Ok(false);
    };
    let target = RecordedPod {
        record,
        is_terminating: status.deletion_timestamp.is_some(),
        status: status.status,
    };
    Ok(has_ended(&target, container))
}

/// Whether the container has ended for good.
#[must_use]
pub fn has_ended(target: &RecordedPod, container: &str) -> bool {
    if target.is_completed() {
        return true;
    }
    let state = target
        .container_status(container)
        .and_then(|status| status.state.as_ref());
    let Some(terminated) = state.and_then(|state| state.terminated.as_ref()) else {
        return false;
    };
    let pod = &target.record.pod;
    target.is_terminating
        || container_order::ephemeral_containers(pod).any(|ephemeral| ephemeral.name == container)
        || !may_restart_all(pod)
            && recorded_pod::container(pod, container)
                .is_none_or(|container| !is_restarted(pod, &container, terminated.exit_code))
}

/// Whether the exit of one of the containers can restart all of them, so that none has ended for good before the Pod.
fn may_restart_all(pod: &Pod) -> bool {
    let containers = container_order::containers(pod);
    let mut rules = containers.flat_map(|container| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == "RestartAllContainers")
}

/// Whether a container is restarted after this exit code.
fn is_restarted(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let rules = container.restart_policy_rules.iter().flatten();
    let has_rule = rules.into_iter().any(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            listed == (codes.operator == "In")
        })
    });
    let spec = pod.spec.as_ref();
    let is_init = spec.is_some_and(|spec| {
        let mut init = spec.init_containers.iter().flatten();
        init.any(|init| init.name == container.name)
    });
    let own = container.restart_policy.as_deref();
    let policy = own
        .or_else(|| spec.and_then(|spec| spec.restart_policy.as_deref()))
        .unwrap_or("Always");
    has_rule
        || match policy {
            "Never" => false,
            // In a Pod that restarts its containers, an init container is finished when it succeeds.
            "Always" if own.is_none() && is_init => exit_code != 0,
            "OnFailure" => exit_code != 0,
            _ => true,
        }
}
