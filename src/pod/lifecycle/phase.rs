//! The Pod's phase (`getPhase` in `pkg/kubelet/kubelet_pods.go`).

use super::plan::Role;
use super::restart;
use super::state::{Lifecycle, Phase, State};
use super::status::Shown;

/// The number of containers in each state. Terminated sidecars are not counted.
#[derive(Default)]
struct Count {
    pending_init: usize,
    pending_sidecars: usize,
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

impl Lifecycle {
    pub(super) fn next_phase(&self) -> Phase {
        if self.phase.is_terminal() {
            return self.phase;
        }
        if self.rejection.is_some() || self.deadline_exceeded || self.eviction.is_some() {
            return Phase::Failed;
        }
        if self.restart_all.is_some() {
            return self.phase;
        }
        if self.has_init_failed_by_policy() {
            return Phase::Failed;
        }
        let count = self.count();
        let is_over = self.is_over();
        let is_waiting =
            count.pending_init > 0 || (count.pending_sidecars > 0 && !self.has_any_main_started()) || count.waiting > 0;
        if is_waiting {
            // In a Pod that has ended, a container that never ran counts as failed.
            return if is_over { Phase::Failed } else { Phase::Pending };
        }
        if count.running > 0 {
            return Phase::Running;
        }
        if !is_over {
            // A container waits for its next attempt, or is being stopped before it is known to run.
            return if count.stopped > 0 {
                Phase::Running
            } else {
                Phase::Pending
            };
        }
        if count.stopped == count.succeeded {
            Phase::Succeeded
        } else {
            Phase::Failed
        }
    }

    /// Whether one of `containers` runs, or has run according to its status.
    pub(super) fn has_any_main_started(&self) -> bool {
        (0..self.containers.len()).any(|index| {
            self.containers
                .get(index)
                .is_some_and(|container| container.plan.is_main())
                && !matches!(self.shown(index), Some(Shown::Waiting { .. }) | None)
        })
    }

    fn has_init_failed_by_policy(&self) -> bool {
        self.containers.iter().any(|container| {
            container.plan.role == Role::Init
                && matches!(&container.state, State::Ended(ended) if ended.last.exit.code != 0
                    && ended.retry.is_none()
                    && !restart::restarts(&self.plan, &container.plan, ended.last.exit.code))
        })
    }

    fn count(&self) -> Count {
        let mut count = Count::default();
        for (index, container) in self.containers.iter().enumerate() {
            let Some(shown) = self.shown(index) else { continue };
            match (container.plan.role, shown) {
                (Role::Init, Shown::Running(_) | Shown::Waiting { last: None, .. }) => count.pending_init += 1,
                (Role::Init, Shown::Waiting { .. } | Shown::Terminated { .. }) => {}
                (Role::Ephemeral, _) => {}
                (Role::Sidecar, Shown::Running(running)) => {
                    count.running += 1;
                    count.pending_sidecars += usize::from(!running.is_started);
                }
                (Role::Sidecar, Shown::Waiting { last: None, .. }) => count.pending_sidecars += 1,
                (Role::Sidecar, Shown::Waiting { .. } | Shown::Terminated { .. }) => {}
                (Role::Main, Shown::Running(_)) => count.running += 1,
                (Role::Main, Shown::Waiting { last: None, .. }) => count.waiting += 1,
                (
                    Role::Main,
                    Shown::Waiting {
                        last: Some(terminated), ..
                    }
                    | Shown::Terminated { terminated, .. },
                ) => {
                    count.stopped += 1;
                    count.succeeded += usize::from(terminated.exit.code == 0);
                }
            }
        }
        count
    }
}
