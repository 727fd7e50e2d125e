//! Restarts of all containers in place (KEP-5532): a container's exit matches a rule with the action
//! `RestartAllContainers`. All containers are then killed at once, without preStop hooks or grace periods, and start
//! again as in a new Pod, init containers first. The sandbox, address, volumes and ephemeral containers stay.

use super::event;
use super::interface::{Action, Exit, Time};
use super::restart::RELIST_PERIOD;
use super::state::{Lifecycle, RestartAll, State, Step, Terminated};

impl Lifecycle {
    /// Whether a rule of one of the containers can restart all of them (`AllContainersCouldRestart`).
    pub(super) fn may_restart_all(&self) -> bool {
        let mut rules = self
            .containers
            .iter()
            .flat_map(|container| &container.plan.restart_rules);
        rules.any(|rule| rule.restarts_all)
    }

    /// Begins a restart of all containers if a rule requires one after the container's last exit. The exits of
    /// containers that are killed by such a restart do not count.
    pub(super) fn restart_all_if_ruled(&mut self, now: Time, index: usize) {
        if self.is_terminating() || self.restart_all.is_some() {
            return;
        }
        let Some(container) = self.containers.get(index) else {
            return;
        };
        if let State::Ended(ended) = &container.state
            && let Some(rule) = container.plan.restart_rule(ended.last.exit.code)
            && rule.restarts_all
        {
            self.restart_all = Some(RestartAll {
                began_at: now,
                is_reset: false,
            });
        }
    }

    /// When the containers start again. The kubelet notices exits once a second. This also limits how often a Pod
    /// restarts, because these restarts have no back-off.
    pub(super) fn restart_all_due_at(&self) -> Option<Time> {
        let restart = self.restart_all.as_ref().filter(|restart| restart.is_reset)?;
        Some(restart.began_at.saturating_add(RELIST_PERIOD))
    }

    /// Kills the containers that still run, resets all once they have ended, and ends the restart when it is time to
    /// start them.
    pub(super) fn keep_restart_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let Some(restart) = &self.restart_all else { return };
        if !restart.is_reset {
            self.kill_for_restart(now, out);
            let mut restarted = self
                .containers
                .iter()
                .filter(|container| !container.plan.is_ephemeral());
            if restarted.any(|container| container.is_active()) {
                return;
            }
            self.reset_containers();
        }
        if self.restart_all_due_at().is_some_and(|at| at <= now) {
            self.restart_all = None;
        }
    }

    fn kill_for_restart(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            let Some(container) = self.containers.get(index) else {
                continue;
            };
            let active = container.active().filter(|_| !container.plan.is_ephemeral());
            let Some(active) = active else { continue };
            match &active.stop {
                Some(stop) if matches!(stop.step, Step::Killed { .. }) => continue,
                None if active.running.is_some() => {
                    let message = format!("Stopping container {}", container.plan.name);
                    out.push(event::killing(index, message));
                }
                Some(_) | None => {}
            }
            self.kill(now, index, out);
        }
    }

    fn reset_containers(&mut self) {
        let restarted = self.containers.iter_mut();
        for container in restarted.filter(|container| !container.plan.is_ephemeral()) {
            container.is_initialized = false;
            if let State::Ended(ended) = std::mem::replace(&mut container.state, State::Waiting) {
                container.last = Some(Terminated {
                    exit: Exit::restarted_with_all(),
                    ..ended.last
                });
                container.restart_count = container.restart_count.max(container.next_attempt);
            }
        }
        if let Some(restart) = &mut self.restart_all {
            restart.is_reset = true;
        }
    }
}
