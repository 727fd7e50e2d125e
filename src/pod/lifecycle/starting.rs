//! Decides which container may start now. Init containers start one after another; the successor of a sidecar starts
//! once the sidecar has started. The other containers start in the order of the spec when all init containers are done.
//! A container restarts when its back-off has passed.
//!
//! A start includes the container's postStart hook, and only one is in progress at a time (`SyncPod` and
//! `startContainer` in `pkg/kubelet/kuberuntime`). Starts of containers without a hook are requested together, because
//! nothing happens between two such starts; the guest keeps their order.

use super::interface::Action;
use super::interface::Time;
use super::plan::Role;
use super::state::Lifecycle;
use super::state::{Image, PostStart, State};

impl Lifecycle {
    /// When the container is due to start, if nothing prevents it.
    pub(super) fn start_due_at(&self, index: usize) -> Option<Time> {
        let is_held = self.sandbox.is_replaced || self.restart_all.is_some();
        if is_held || !self.sandbox.is_ready() || self.is_terminating() || self.has_finished() {
            return None;
        }
        let container = self.containers.get(index)?;
        // The image may have changed after the start of the sandbox. It is then added to the sandbox.
        if !matches!(container.image, Image::Ready { .. }) {
            return None;
        }
        let due_at = match &container.state {
            State::Waiting => Time::ZERO,
            State::Refused { retry_at, .. } => *retry_at,
            State::Ended(ended) => ended.retry.as_ref()?.at,
            State::Active(_) => return None,
        };
        let mut earlier = self.containers.iter().take(index);
        let may_start = match container.plan.is_ephemeral() {
            true => matches!(container.image, Image::Ready { .. }),
            false => earlier.all(|container| !container.plan.is_init() || container.is_initialized),
        };
        (may_start && !self.is_held_up(index)).then_some(due_at)
    }

    /// Whether another container's start is still in progress.
    fn is_held_up(&self, index: usize) -> bool {
        let others = self.containers.iter().enumerate();
        others
            .filter(|(other, _)| *other != index)
            .any(|(_, container)| container.holds_up_others())
    }

    pub(super) fn start_containers(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            if self.start_due_at(index).is_some_and(|at| at <= now) {
                self.start_container(now, index, out);
            }
        }
    }

    /// Handles a container that runs and whose postStart hook has returned.
    pub(super) fn container_is_up(&mut self, now: Time, index: usize) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let has_startup_probe = container.plan.probe(super::ProbeKind::Startup).is_some();
        let Some(running) = container.active_mut().and_then(|active| active.running.as_mut()) else {
            return;
        };
        running.post_start = PostStart::Done;
        self.schedule_probes(now, index);
        if !has_startup_probe {
            self.container_has_started(now, index);
        }
    }

    /// Handles a container whose startup probe has succeeded, or that has none.
    pub(super) fn container_has_started(&mut self, now: Time, index: usize) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let has_readiness_probe = container.plan.probe(super::ProbeKind::Readiness).is_some();
        let is_sidecar = container.plan.role == Role::Sidecar;
        let Some(running) = container.active_mut().and_then(|active| active.running.as_mut()) else {
            return;
        };
        running.is_started = true;
        running.is_ready = !has_readiness_probe;
        container.is_initialized |= is_sidecar;
        self.schedule_probes(now, index);
    }

    /// Whether no more containers will be started in a Pod that was not asked to end: an init container has failed for
    /// good, or all containers have ended for good.
    pub(super) fn has_finished(&self) -> bool {
        if self.restart_all.is_some() {
            return false;
        }
        let has_ended_for_good = |state: &State| matches!(state, State::Ended(ended) if ended.retry.is_none());
        self.has_init_failed()
            || self
                .containers
                .iter()
                .filter(|container| container.plan.is_main())
                .all(|container| has_ended_for_good(&container.state))
    }

    pub(super) fn has_init_failed(&self) -> bool {
        self.containers.iter().any(|container| {
            container.plan.role == Role::Init
                && matches!(&container.state, State::Ended(ended) if ended.retry.is_none() && ended.last.exit.code != 0)
        })
    }
}
