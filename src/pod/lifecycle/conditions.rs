//! The Pod's conditions (`pkg/kubelet/status/generate.go`).

use k8s_openapi::api::core::v1::PodCondition;

use super::interface::Time;
use super::state::{Lifecycle, Phase};
use super::status::Shown;
use super::transitions::ConditionState;

impl Lifecycle {
    /// All conditions, in the kubelet's order.
    pub(super) fn condition_states(&self) -> Vec<ConditionState> {
        let containers_ready = self.containers_ready();
        let ready = self.pod_ready(&containers_ready);
        vec![
            ConditionState::of("PodReadyToStartContainers", self.sandbox.is_ready()),
            self.initialized(),
            ready,
            containers_ready,
            ConditionState::of("PodScheduled", true),
        ]
    }

    /// `status.conditions`.
    pub(super) fn shown_conditions(&self, now: Time) -> Vec<PodCondition> {
        self.conditions.shown(now, &self.condition_states(), |kind| match kind {
            // The scheduler's, which has seen the Pod once.
            "PodScheduled" => self.plan.generation,
            _ => self.generation(),
        })
    }

    fn initialized(&self) -> ConditionState {
        let condition = |is_true| ConditionState::of("Initialized", is_true);
        if self.phase == Phase::Succeeded {
            return condition(true).because("PodCompleted", None);
        }
        // Who has begun to run was initialized, even if sidecars are being restarted.
        if self.has_any_main_started() {
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
        // Nobody can set the conditions that gates wait for.
        let gates = &self.plan.readiness_gates;
        if gates.is_empty() {
            return ConditionState::of("Ready", true);
        }
        let missing: Vec<String> = gates
            .iter()
            .map(|gate| format!("corresponding condition of pod readiness gate \"{gate}\" does not exist."))
            .collect();
        ConditionState::of("Ready", false).because("ReadinessGatesNotReady", Some(missing.join(", ")))
    }

    fn names(&self, select: impl Fn(&Self, usize) -> bool) -> Vec<&str> {
        self.containers
            .iter()
            .enumerate()
            .filter(|(index, _)| select(self, *index))
            .map(|(_, container)| container.plan.name.as_str())
            .collect()
    }

    /// `started` of the container's status.
    pub(super) fn is_started(&self, index: usize) -> bool {
        match (self.shown(index), self.containers.get(index)) {
            (Some(Shown::Running(running)), Some(_)) => running.is_started,
            _ => false,
        }
    }

    /// `ready` of the container's status. An init container is ready when it is done.
    pub(super) fn is_ready(&self, index: usize) -> bool {
        let Some(container) = self.containers.get(index) else {
            return false;
        };
        let is_regular_init = container.plan.is_init() && !container.plan.is_sidecar();
        match self.shown(index) {
            Some(Shown::Running(running)) => !is_regular_init && running.is_ready,
            Some(Shown::Terminated { terminated, .. }) => is_regular_init && terminated.exit.code == 0,
            Some(Shown::Waiting { .. }) | None => false,
        }
    }
}
