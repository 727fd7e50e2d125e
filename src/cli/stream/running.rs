//! Waits for a container to run or end, and reports in the meantime why it does not.

use std::time::Duration;

use anyhow::{anyhow, bail};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};
use tokio::time::Instant;

use super::session::Endings;
use crate::cli::duration::{Timeout, duration};
use crate::cli::print::for_terminal;
use crate::pod::changes::Changes;
use crate::pod::recorded_pod::containers;
use crate::state::{Paths, PodRecord, PodRecords};
use crate::stderr::PREFIX;

/// `reason` of a container that could not be started.
const START_ERROR: &str = "StartError";

/// The value of `--pod-running-timeout`.
///
/// # Errors
/// As in kubectl: if it is not a duration or not greater than zero.
pub(in crate::cli) fn running_timeout(text: &str) -> anyhow::Result<Duration> {
    let Timeout(timeout) = duration(text)?;
    if timeout.is_zero() || text.starts_with('-') {
        bail!("--pod-running-timeout must be higher than zero");
    }
    Ok(timeout)
}

/// Watches one container through the Pod's records.
#[derive(Debug)]
pub(in crate::cli) struct ContainerWatch<'p> {
    record: &'p PodRecord,
    container: &'p str,
    records: PodRecords,
    changes: Changes,
    /// The last reason shown why it does not run.
    said: Option<String>,
}

/// The result of a wait.
#[derive(Debug)]
pub(in crate::cli) enum Waited {
    /// The status meets the condition.
    Until(PodStatus),
    /// The condition was not met in time; has the last status.
    TimedOut(PodStatus),
    /// This signal arrived first.
    Signal(u8),
}

impl<'p> ContainerWatch<'p> {
    /// Starts watching now.
    ///
    /// # Errors
    /// If the records cannot be watched.
    pub(in crate::cli) fn new(paths: &Paths, record: &'p PodRecord, container: &'p str) -> anyhow::Result<Self> {
        Ok(Self {
            record,
            container,
            records: PodRecords::new(paths.clone()),
            changes: Changes::of(paths)?,
            said: None,
        })
    }

    /// The Pod's current status.
    ///
    /// # Errors
    /// If the Pod is gone.
    pub(in crate::cli) fn status(&self) -> anyhow::Result<PodStatus> {
        let uid = &self.record.uid;
        match self.records.status(uid)? {
            Some(status) => Ok(status.status),
            None if self.records.get(uid)?.is_none() => {
                bail!("pod {:?} was deleted while waiting for it", self.record.name)
            }
            None => Ok(PodStatus::default()),
        }
    }

    /// Waits until the Pod's status meets the condition. Each new reason why the container does not run is shown once.
    ///
    /// # Errors
    /// If the Pod is gone.
    pub(in crate::cli) async fn until(
        &mut self,
        timeout: Duration,
        endings: &mut Endings,
        tell: &mut dyn FnMut(&str),
        is_wanted: impl Fn(&PodStatus) -> bool,
    ) -> anyhow::Result<Waited> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.status()?;
            if is_wanted(&status) {
                return Ok(Waited::Until(status));
            }
            let reason = why_not_running(&status, self.container);
            if let Some(reason) = reason.filter(|reason| self.said.as_ref() != Some(reason)) {
                tell(&format!("{PREFIX}pod {:?}: {reason}", self.record.name));
                self.said = Some(reason);
            }
            tokio::select! {
                biased;
                number = endings.next() => return Ok(Waited::Signal(number)),
                changed = self.changes.next() => drop(changed?),
                () = tokio::time::sleep_until(deadline) => return Ok(Waited::TimedOut(status)),
            }
        }
    }

    /// Why the container was not running in time: the reason from its status, or else the Pod's last warning.
    pub(in crate::cli) fn timed_out(&self, status: &PodStatus) -> anyhow::Error {
        let reason = why_not_running(status, self.container).or_else(|| {
            let events = self.records.events(&self.record.uid).unwrap_or_default();
            let warning = events
                .into_iter()
                .filter(|event| event.warning)
                .max_by_key(|event| event.last_seen)?;
            Some(for_terminal(&format!("{}: {}", warning.reason, warning.message)))
        });
        let reason = reason.unwrap_or_else(|| {
            let state = container_status(status, self.container).and_then(|status| status.state.as_ref());
            let waiting = state.and_then(|state| state.waiting.as_ref());
            let reason = waiting
                .and_then(|waiting| waiting.reason.as_deref())
                .unwrap_or("Pending");
            format!(
                "container {:?} is waiting to start: {reason} (see --pod-running-timeout)",
                self.container
            )
        });
        anyhow!(
            "timed out waiting for the condition: pod {:?}: {reason}",
            self.record.name
        )
    }
}

/// Whether the Pod has ended and none of its containers will run again.
pub(in crate::cli) fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

pub(in crate::cli) fn container_status<'s>(status: &'s PodStatus, container: &str) -> Option<&'s ContainerStatus> {
    let all = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let mut all = all.into_iter().flatten().flatten();
    all.find(|status| status.name == container)
}

pub(in crate::cli) fn is_running(status: &PodStatus, container: &str) -> bool {
    let state = container_status(status, container).and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.running.is_some())
}

/// How a container last ended, if it has ended and is not running.
pub(in crate::cli) fn last_end<'s>(status: &'s PodStatus, container: &str) -> Option<&'s ContainerStateTerminated> {
    let status = container_status(status, container)?;
    let terminated = |state: &'s Option<ContainerState>| state.as_ref()?.terminated.as_ref();
    terminated(&status.state).or_else(|| terminated(&status.last_state))
}

/// Whether this is the end of a container that never started.
pub(in crate::cli) fn is_start_error(end: &ContainerStateTerminated) -> bool {
    end.reason.as_deref() == Some(START_ERROR)
}

/// `terminated (Error) with exit code 3: MESSAGE`
pub(in crate::cli) fn described(end: &ContainerStateTerminated) -> String {
    let reason = end.reason.as_deref().unwrap_or("Unknown");
    with_message(
        &format!("terminated ({reason}) with exit code {}", end.exit_code),
        end.message.as_deref(),
    )
}

/// Why a container does not run, if the reason is not just that the Pod is starting. Without control characters.
pub(in crate::cli) fn why_not_running(status: &PodStatus, container: &str) -> Option<String> {
    if is_running(status, container) {
        return None;
    }
    if let Some(reason) = &status.reason {
        return Some(with_message(reason, status.message.as_deref()));
    }
    let mut conditions = status.conditions.iter().flatten();
    let unscheduled = conditions.find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        let reason = condition.reason.as_deref().unwrap_or("Unschedulable");
        return Some(with_message(reason, condition.message.as_deref()));
    }
    let own = container_status(status, container).and_then(reason_not_running);
    let of_init = || {
        status
            .init_container_statuses
            .iter()
            .flatten()
            .find_map(reason_not_running)
    };
    own.or_else(of_init)
}

/// The reason in the status why a container does not run.
fn reason_not_running(status: &ContainerStatus) -> Option<String> {
    let state = status.state.as_ref()?;
    let name = &status.name;
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "" | "ContainerCreating" | "PodInitializing") {
            return None;
        }
        let text = with_message(
            &format!("container {name:?} is waiting to start: {reason}"),
            waiting.message.as_deref(),
        );
        return Some(match last {
            Some(end) => format!("{text} (it last {})", described(end)),
            None => text,
        });
    }
    let end = state.terminated.as_ref().filter(|end| end.exit_code != 0)?;
    Some(format!("container {name:?} {}", described(end)))
}

fn with_message(text: &str, message: Option<&str>) -> String {
    match message.map(str::trim_end).filter(|message| !message.is_empty()) {
        Some(message) => for_terminal(&format!("{text}: {message}")),
        None => for_terminal(text),
    }
}

/// The error of a verb that needs a running container, with the reason why this one does not run, if known.
pub(in crate::cli) fn with_reason_not_running(
    error: anyhow::Error,
    paths: &Paths,
    record: &PodRecord,
    container: &str,
) -> anyhow::Error {
    let status = PodRecords::new(paths.clone()).status(&record.uid).ok().flatten();
    let reason = status.and_then(|status| {
        why_not_running(&status.status, container).or_else(|| {
            let end = last_end(&status.status, container).filter(|_| !is_running(&status.status, container))?;
            Some(format!("container {container:?} {}", described(end)))
        })
    });
    // For a container name that does not exist there is no reason to give.
    let is_known = containers(&record.pod).any(|known| known.name == container);
    match reason.filter(|_| is_known) {
        Some(reason) => anyhow!("{error:#}: {reason}"),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    fn of_container(state: Value, last_state: Value) -> PodStatus {
        status(json!({ "phase": "Pending", "containerStatuses": [{
            "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last_state,
        }] }))
    }

    #[test]
    fn the_reason_for_a_container_not_running_has_the_message_of_kubernetes() {
        let waiting = |reason: &str, message: &str| json!({ "waiting": { "reason": reason, "message": message } });
        let ended = json!({ "terminated": { "exitCode": 3, "reason": "Error", "message": "no\u{1b} such thing\n" } });
        for (state, last_state, reason) in [
            (json!({ "running": {} }), ended.clone(), None),
            (waiting("ContainerCreating", ""), json!({}), None),
            (waiting("PodInitializing", ""), json!({}), None),
            (
                waiting(
                    "ErrImageNeverPull",
                    "Container image \"x\" is not present with pull policy of Never",
                ),
                json!({}),
                Some(
                    "container \"c\" is waiting to start: ErrImageNeverPull: Container image \"x\" is not present with pull policy of Never",
                ),
            ),
            (
                waiting("CrashLoopBackOff", "back-off 10s"),
                ended.clone(),
                Some(
                    "container \"c\" is waiting to start: CrashLoopBackOff: back-off 10s (it last terminated (Error) with exit code 3: no\\u{1b} such thing)",
                ),
            ),
            (
                ended,
                json!({}),
                Some("container \"c\" terminated (Error) with exit code 3: no\\u{1b} such thing"),
            ),
            (
                json!({ "terminated": { "exitCode": 0, "reason": "Completed" } }),
                json!({}),
                None,
            ),
        ] {
            let status = of_container(state, last_state);
            assert_eq!(why_not_running(&status, "c").as_deref(), reason);
        }
    }

    #[test]
    fn unschedulable_pods_and_failed_init_containers_are_reported_as_reasons() {
        let unscheduled = status(json!({ "phase": "Pending", "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "Insufficient memory" },
        ] }));
        assert_eq!(
            why_not_running(&unscheduled, "c").unwrap(),
            "Unschedulable: Insufficient memory"
        );
        let refused = status(json!({ "phase": "Failed", "reason": "OutOfmemory", "message": "too much" }));
        assert_eq!(why_not_running(&refused, "c").unwrap(), "OutOfmemory: too much");
        let init = status(json!({ "phase": "Pending", "initContainerStatuses": [{
            "name": "i", "image": "i", "imageID": "", "ready": false, "restartCount": 2,
            "state": { "waiting": { "reason": "CrashLoopBackOff" } },
        }] }));
        assert_eq!(
            why_not_running(&init, "c").unwrap(),
            "container \"i\" is waiting to start: CrashLoopBackOff"
        );
    }

    #[test]
    fn a_timeout_must_be_positive() {
        assert_eq!(running_timeout("1m").unwrap(), Duration::from_secs(60));
        for text in ["0", "0s", "-1s"] {
            let error = running_timeout(text).unwrap_err().to_string();
            assert_eq!(error, "--pod-running-timeout must be higher than zero");
        }
        assert!(running_timeout("soon").is_err());
    }
}
