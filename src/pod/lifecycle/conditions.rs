//! The Pod's conditions (`pkg/kubelet/status/generate.go`).

use k8s_openapi::api::core::v1::PodCondition;

use super::interface::Time;
use super::state::{Lifecycle, Phase};
use super::status::Shown;
use super::transitions::ConditionState;

/// The types of conditions that the kubelet and the scheduler set (`PodConditionByKubelet`).
const OWN_CONDITIONS: [&str; 8] = [
    "PodScheduled",
    "Ready",
    "Initialized",
    "ContainersReady",
    "PodReadyToStartContainers",
    "AllContainersRestarting",
    "PodResizePending",
    "PodResizeInProgress",
];

impl Lifecycle {
    /// All conditions, in the kubelet's order.
    pub(super) fn condition_states(&self) -> Vec<ConditionState> {
        if self.rejection.is_some() {
            return vec![ConditionState::of("PodScheduled", true)];
        }
        if self.is_gated() {
            let message = "Scheduling is blocked due to non-empty scheduling gates".to_owned();
            return vec![ConditionState::of("PodScheduled", false).because("SchedulingGated", Some(message))];
        }
        if self.is_unplaced {
            return self.not_scheduled().into_iter().collect();
        }
        if self.is_invalid {
            // The scheduler's condition. The kubelet ignores the Pod, and sets none.
            return vec![ConditionState::of("PodScheduled", true)];
        }
        let containers_ready = self.containers_ready();
        let ready = self.pod_ready(&containers_ready);
        let mut states = vec![
            ConditionState::of("PodReadyToStartContainers", self.sandbox.is_ready()),
            self.initialized(),
            ready,
            containers_ready,
            ConditionState::of("PodScheduled", true),
        ];
        if self.may_restart_all() {
            states.push(self.all_containers_restarting());
        }
        states
    }

    /// The scheduler's condition, once it has tried to place the Pod (`handleSchedulingFailure`).
    fn not_scheduled(&self) -> Option<ConditionState> {
        let why = self.not_placed.as_ref()?;
        let reason = if why.is_error {
            "SchedulerError"
        } else {
            "Unschedulable"
        };
        Some(ConditionState::of("PodScheduled", false).because(reason, Some(why.message.clone())))
    }

    fn all_containers_restarting(&self) -> ConditionState {
        let condition = |is_true| ConditionState::of("AllContainersRestarting", is_true);
        match self.phase {
            Phase::Succeeded => condition(false).because("PodCompleted", None),
            Phase::Failed => condition(false).because("PodFailed", None),
            _ if self.restart_all.is_some() => {
                let message = "container exited with restart policy rule".to_owned();
                condition(true).because("RestartAllContainersStarted", Some(message))
            }
            Phase::Pending | Phase::Running => condition(false),
        }
    }

    /// `status.conditions`.
    pub(super) fn shown_conditions(&self, now: Time) -> Vec<PodCondition> {
        let mut shown = self.conditions.shown(now, &self.condition_states(), |kind| match kind {
            // Set by the scheduler, which sees the Pod only once.
            "PodScheduled" => self.plan.generation,
            _ => self.generation(),
        });
        shown.extend(self.client_conditions.iter().cloned());
        shown
    }

    /// Whether the kubelet or the scheduler sets the condition of this type, so clients cannot.
    #[must_use]
    pub fn owns_condition(kind: &str) -> bool {
        OWN_CONDITIONS.contains(&kind)
    }

    fn initialized(&self) -> ConditionState {
        let condition = |is_true| ConditionState::of("Initialized", is_true);
        if self.phase == Phase::Succeeded {
            return condition(true).because("PodCompleted", None);
        }
        // Once a main container has started, the Pod counts as initialized, even while sidecars are restarted.
        if self.has_any_main_started() {
            return condition(true);
        }
        // A restart of all containers changes this condition only when they start again.
        if self.restart_all.is_some() && self.conditions.is_true("Initialized") {
            return condition(true);
        }
        let incomplete = self.names(|lifecycle, index| {
            let container = &lifecycle.containers[index];
            container.plan.is_init()
                && !if container.plan.is_sidecar() {
                    lifecycle.is_started(index)
                } else {
                    lifecycle.is_ready(index)
                }
        });
        if incomplete.is_empty() {
            return condition(true);
        }
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        condition(false).because("ContainersNotInitialized", Some(message))
    }

    fn containers_ready(&self) -> ConditionState {
        let condition = |is_true| ConditionState::of("ContainersReady", is_true);
        match self.phase {
            Phase::Succeeded => return condition(false).because("PodCompleted", None),
            Phase::Failed => return condition(false).because("PodFailed", None),
            Phase::Pending | Phase::Running => {}
        }
        let unready = self.names(|lifecycle, index| {
            let plan = &lifecycle.containers[index].plan;
            (plan.is_main() || plan.is_sidecar()) && !lifecycle.is_ready(index)
        });
        if unready.is_empty() {
            return condition(true);
        }
        let message = format!("containers with unready status: [{}]", unready.join(" "));
        condition(false).because("ContainersNotReady", Some(message))
    }

    fn pod_ready(&self, containers_ready: &ConditionState) -> ConditionState {
        if !containers_ready.is_true {
            return ConditionState {
                kind: "Ready",
                ..containers_ready.clone()
            };
        }
        let unready: Vec<String> = self
            .plan
            .readiness_gates
            .iter()
            .filter_map(|gate| match self.client_condition(gate) {
                Some("True") => None,
                Some(status) => Some(format!(
                    "the status of pod readiness gate \"{gate}\" is not \"True\", but {status}"
                )),
                None => Some(format!(
                    "corresponding condition of pod readiness gate \"{gate}\" does not exist."
                )),
            })
            .collect();
        if unready.is_empty() {
            return ConditionState::of("Ready", true);
        }
        ConditionState::of("Ready", false).because("ReadinessGatesNotReady", Some(unready.join(", ")))
    }

    /// The status of a condition that a client has set.
    fn client_condition(&self, kind: &str) -> Option<&str> {
        let mut conditions = self.client_conditions.iter();
        conditions
            .find(|condition| condition.type_ == kind)
            .map(|condition| condition.status.as_str())
    }

    fn names(&self, select: impl Fn(&Self, usize) -> bool) -> Vec<&str> {
        self.containers
            .iter()
            .enumerate()
            .filter(|(index, _)| select(self, *index))
            .map(|(_, container)| container.plan.name.as_str())
            .collect()
    }

    /// The `started` field of the container's status.
    pub(super) fn is_started(&self, index: usize) -> bool {
        match (self.shown(index), self.containers.get(index)) {
            (Some(Shown::Running(running)), Some(_)) => running.is_started,
            _ => false,
        }
    }

    /// The `ready` field of the container's status. An init container is ready when it has finished.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        let Some(container) = self.containers.get(index) else {
            return false;
        };
        let is_regular_init = container.plan.is_init() && !container.plan.is_sidecar();
        match self.shown(index) {
            _ if container.plan.is_ephemeral() => false,
            Some(Shown::Running(running)) => !is_regular_init && running.is_ready,
            Some(Shown::Terminated { terminated, .. }) => is_regular_init && terminated.exit.code == 0,
            Some(Shown::Waiting { .. }) | None => false,
        }
    }
}
