//! READY, STATUS and RESTARTS as in `kubectl get pods`, by its rules (`pkg/printers/internalversion/printers.go`,
//! `printPod`).

use std::collections::HashSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodStatus};

use super::super::table::since;

/// `PodReasonSchedulingGated`
const GATED: &str = "SchedulingGated";

/// The computed cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cli) struct StatusCells {
    pub(in crate::cli) ready: String,
    pub(in crate::cli) status: String,
    pub(in crate::cli) restarts: String,
}

/// Restarts, and the end of the last container that was restarted.
#[derive(Debug, Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let last = container
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref());
        let finished = last.and_then(|terminated| terminated.finished_at.as_ref());
        self.last = self.last.max(finished.map(|time| time.0));
    }
}

/// The cells of a Pod.
pub(in crate::cli) fn cells(pod: &Pod, now: Timestamp) -> StatusCells {
    let empty = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&empty);
    let spec = pod.spec.as_ref();
    let phase = status.phase.as_deref().unwrap_or("Unknown");
    let mut reason = status.reason.clone().filter(|reason| !reason.is_empty());
    let mut conditions = status.conditions.iter().flatten();
    if conditions.any(|condition| condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some(GATED)) {
        reason = Some(GATED.to_owned());
    }
    let sidecars: HashSet<&str> = spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten())
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let init_count = spec.map_or(0, |spec| spec.init_containers.iter().flatten().count());
    let mut total = spec.map_or(0, |spec| spec.containers.len());
    total += sidecars.len();

    let (mut ready, mut all, mut of_sidecars) = (0_usize, Restarts::default(), Restarts::default());
    let mut initializing = false;
    for (index, container) in status.init_container_statuses.iter().flatten().enumerate() {
        all.add(container);
        let is_sidecar = sidecars.contains(container.name.as_str());
        if is_sidecar {
            of_sidecars.add(container);
        }
        let state = container.state.as_ref();
        let terminated = state.and_then(|state| state.terminated.as_ref());
        let waiting = state
            .and_then(|state| state.waiting.as_ref())
            .and_then(|waiting| waiting.reason.as_deref())
            .filter(|reason| !reason.is_empty() && *reason != "PodInitializing");
        match (terminated, waiting) {
            (Some(terminated), _) if terminated.exit_code == 0 => continue,
            _ if is_sidecar && container.started == Some(true) => {
                ready += usize::from(container.ready);
                continue;
            }
            (Some(terminated), _) => reason = Some(format!("Init:{}", end(terminated))),
            (None, Some(waiting)) => reason = Some(format!("Init:{waiting}")),
            (None, None) => reason = Some(format!("Init:{index}/{init_count}")),
        }
        initializing = true;
        break;
    }

    let mut restarts = all;
    if !initializing || has_condition(status, "Initialized") {
        restarts = of_sidecars;
        let mut has_running = false;
        for container in status.container_statuses.iter().flatten().rev() {
            restarts.add(container);
            let state = container.state.as_ref();
            let waiting = state
                .and_then(|state| state.waiting.as_ref())
                .and_then(|waiting| waiting.reason.clone())
                .filter(|reason| !reason.is_empty());
            let terminated = state.and_then(|state| state.terminated.as_ref());
            match (waiting, terminated) {
                (Some(waiting), _) => reason = Some(waiting),
                (None, Some(terminated)) => reason = Some(end(terminated)),
                (None, None) if container.ready && state.is_some_and(|state| state.running.is_some()) => {
                    has_running = true;
                    ready += 1;
                }
                (None, None) => {}
            }
        }
        // Some containers have completed, others are still running.
        if reason.as_deref() == Some("Completed") && has_running {
            let is_ready = has_condition(status, "Ready");
            reason = Some(if is_ready { "Running" } else { "NotReady" }.to_owned());
        }
    }
    if pod.metadata.deletion_timestamp.is_some() && !["Succeeded", "Failed"].contains(&phase) {
        reason = Some("Terminating".to_owned());
    }
    StatusCells {
        ready: format!("{ready}/{total}"),
        status: reason.unwrap_or_else(|| phase.to_owned()),
        restarts: match restarts {
            Restarts {
                count: count @ 1..,
                last: Some(last),
            } => format!("{count} ({} ago)", since(Some(last), now)),
            Restarts { count, .. } => count.to_string(),
        },
    }
}

/// The reason for a termination, or its signal or exit code.
fn end(terminated: &ContainerStateTerminated) -> String {
    match (&terminated.reason, terminated.signal.unwrap_or(0)) {
        (Some(reason), _) if !reason.is_empty() => reason.clone(),
        (_, 0) => format!("ExitCode:{}", terminated.exit_code),
        (_, signal) => format!("Signal:{signal}"),
    }
}

fn has_condition(status: &PodStatus, kind: &str) -> bool {
    let conditions = status.conditions.iter().flatten();
    conditions
        .into_iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A Pod with one init container, one sidecar and two containers.
    fn shown(status: Value) -> [String; 3] {
        shown_of(&pod(status))
    }

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "web" },
            "spec": {
                "initContainers": [{ "name": "init" }, { "name": "side", "restartPolicy": "Always" }],
                "containers": [{ "name": "a" }, { "name": "b" }],
            },
            "status": status,
        }))
        .unwrap()
    }

    fn shown_of(pod: &Pod) -> [String; 3] {
        let cells = cells(pod, "2026-11-21T10:05:00Z".parse().unwrap());
        [cells.ready, cells.status, cells.restarts]
    }

    fn container(name: &str, state: Value) -> Value {
        let is_running = state.get("running").is_some();
        json!({
            "name": name, "image": "", "imageID": "", "restartCount": 0,
            "ready": is_running, "started": is_running, "state": state,
        })
    }

    fn running() -> Value {
        json!({ "running": {} })
    }

    fn ended(code: i32, reason: &str) -> Value {
        json!({ "terminated": { "exitCode": code, "reason": reason } })
    }

    fn waiting(reason: &str) -> Value {
        json!({ "waiting": { "reason": reason } })
    }

    #[test]
    fn the_status_shows_the_progress_of_init_containers() {
        for (first, second, expected) in [
            (waiting("PodInitializing"), waiting("PodInitializing"), "Init:0/2"),
            (running(), waiting("PodInitializing"), "Init:0/2"),
            (ended(0, "Completed"), waiting("PodInitializing"), "Init:1/2"),
            (ended(1, "Error"), waiting("PodInitializing"), "Init:Error"),
            (ended(3, ""), waiting("PodInitializing"), "Init:ExitCode:3"),
            (
                json!({ "terminated": { "exitCode": 137, "signal": 9 } }),
                waiting(""),
                "Init:Signal:9",
            ),
            (waiting("CrashLoopBackOff"), waiting(""), "Init:CrashLoopBackOff"),
            (waiting("ImagePullBackOff"), waiting(""), "Init:ImagePullBackOff"),
        ] {
            let status = json!({
                "phase": "Pending",
                "initContainerStatuses": [container("init", first), container("side", second)],
                "containerStatuses": [container("a", waiting("PodInitializing")), container("b", waiting("PodInitializing"))],
            });
            assert_eq!(shown(status), ["0/3", expected, "0"]);
        }
    }

    fn initialized(a: Value, b: Value) -> Value {
        json!({
            "phase": "Running",
            "conditions": [{ "type": "Initialized", "status": "True" }],
            "initContainerStatuses": [container("init", ended(0, "Completed")), container("side", running())],
            "containerStatuses": [container("a", a), container("b", b)],
        })
    }

    #[test]
    fn once_initialized_the_first_container_with_a_reason_determines_the_status() {
        for (a, b, ready, expected) in [
            (running(), running(), "3/3", "Running"),
            (
                waiting("ContainerCreating"),
                waiting("ContainerCreating"),
                "1/3",
                "ContainerCreating",
            ),
            (
                waiting("CrashLoopBackOff"),
                ended(1, "Error"),
                "1/3",
                "CrashLoopBackOff",
            ),
            (ended(1, "Error"), waiting("CrashLoopBackOff"), "1/3", "Error"),
            (running(), ended(137, "OOMKilled"), "2/3", "OOMKilled"),
            (ended(2, ""), running(), "2/3", "ExitCode:2"),
            (
                json!({ "terminated": { "exitCode": 143, "signal": 15 } }),
                running(),
                "2/3",
                "Signal:15",
            ),
            (ended(0, "Completed"), running(), "2/3", "NotReady"),
            (ended(0, "Completed"), ended(0, "Completed"), "1/3", "Completed"),
        ] {
            assert_eq!(shown(initialized(a, b)), [ready, expected, "0"]);
        }
        let mut ready = initialized(ended(0, "Completed"), running());
        ready["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
        assert_eq!(shown(ready)[1], "Running");
    }

    #[test]
    fn restarts_count_containers_and_sidecars_with_the_time_of_the_last_restart() {
        let mut status = initialized(running(), running());
        let last = |time: &str| json!({ "terminated": { "exitCode": 1, "finishedAt": time } });
        status["initContainerStatuses"][0]["restartCount"] = json!(7);
        status["initContainerStatuses"][1]["restartCount"] = json!(1);
        status["containerStatuses"][0]["restartCount"] = json!(2);
        status["containerStatuses"][0]["lastState"] = last("2026-11-21T10:00:00Z");
        status["initContainerStatuses"][1]["lastState"] = last("2026-11-21T09:00:00Z");
        assert_eq!(shown(status.clone())[2], "3 (5m ago)");
        status["conditions"] = json!([]);
        status["initContainerStatuses"][0]["state"] = waiting("CrashLoopBackOff");
        assert_eq!(shown(status)[2], "7");
    }

    #[test]
    fn phase_reason_and_deletion_are_shown() {
        let mut pod = pod(json!({ "phase": "Pending" }));
        assert_eq!(shown_of(&pod), ["0/3", "Pending", "0"]);
        let mut evicted = pod.clone();
        evicted.status = serde_json::from_value(json!({ "phase": "Failed", "reason": "DeadlineExceeded" })).unwrap();
        assert_eq!(shown_of(&evicted)[1], "DeadlineExceeded");
        pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            "2026-11-21T10:05:00Z".parse().unwrap(),
        ));
        assert_eq!(shown_of(&pod)[1], "Terminating");
        let gated = json!({
            "phase": "Pending",
            "conditions": [{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }],
        });
        assert_eq!(shown(gated), ["0/3", "SchedulingGated", "0"]);
        evicted.metadata.deletion_timestamp = pod.metadata.deletion_timestamp.clone();
        assert_eq!(shown_of(&evicted)[1], "DeadlineExceeded");
        assert_eq!(shown_of(&Pod::default())[1], "Unknown");
    }
}
