//! The sandbox: the virtual machine in which the Pod's containers run. The sandbox starts when all images are
//! available, is restarted if it is lost while containers may still run, and is stopped when no container will run any
//! more.

use std::time::Duration;

use super::event;
use super::interface::Action;
use super::interface::Time;
use super::plan::RestartPolicy;
use super::state::Lifecycle;
use super::state::{Stage, State};

/// How long a sandbox may take to stop before it counts as gone: by then all its containers are dead.
pub(super) const STOP_PATIENCE: Duration = Duration::from_secs(30);

impl Lifecycle {
    pub(super) fn sandbox_ready(&mut self, pod_ip: String, host_ip: String) {
        if self.sandbox.stage == Stage::Starting {
            self.sandbox.stage = Stage::Ready;
            self.sandbox.pod_ip = Some(pod_ip);
            self.sandbox.host_ip = Some(host_ip);
        }
    }

    pub(super) fn sandbox_failed(&mut self, now: Time, message: &str, out: &mut Vec<Action>) {
        match self.sandbox.stage {
            Stage::Starting => {
                out.push(event::sandbox_failed(message));
                self.sandbox.back_off.lengthen(now, now);
                self.sandbox.stage = Stage::Absent {
                    retry_at: now.saturating_add(self.sandbox.back_off.wait_after(now)),
                    lost_at: None,
                };
            }
            Stage::Stopping { .. } => self.sandbox_stopped(now),
            Stage::Absent { .. } | Stage::Ready | Stage::Gone => {}
        }
    }

    pub(super) fn sandbox_lost(&mut self, now: Time, message: &str, out: &mut Vec<Action>) {
        match self.sandbox.stage {
            Stage::Ready => {}
            Stage::Starting | Stage::Stopping { .. } => return self.sandbox_failed(now, message, out),
            Stage::Absent { .. } | Stage::Gone => return,
        }
        out.push(event::sandbox_lost(message));
        self.sandbox.is_replaced = false;
        self.sandbox.stage = Stage::Absent {
            retry_at: now.saturating_add(self.sandbox.back_off.wait_after(now)),
            lost_at: Some(now),
        };
        let had_run = self.containers.iter().any(|container| container.has_run());
        for index in 0..self.containers.len() {
            if self
                .containers
                .get(index)
                .is_some_and(|container| container.is_active())
            {
                self.container_lost(now, index, out);
            }
        }
        if self.is_terminating() || self.has_finished() {
            return;
        }
        let is_anything_restarted = self.containers.iter().any(|container| match &container.state {
            State::Ended(ended) => ended.retry.is_some(),
            _ => false,
        });
        let is_anything_restarted = is_anything_restarted || self.restart_all.is_some();
        if had_run && self.plan.restart_policy == RestartPolicy::Never && !is_anything_restarted {
            // Containers that did not start with the others in the lost sandbox are not started in a new one.
            return self.begin_termination(now, self.plan.grace, out);
        }
        out.push(event::sandbox_changed());
        self.reset_init_containers();
    }

    /// Init containers run again in a new sandbox.
    pub(super) fn reset_init_containers(&mut self) {
        for container in self.containers.iter_mut().filter(|container| container.plan.is_init()) {
            container.is_initialized = false;
            if let State::Ended(ended) = std::mem::replace(&mut container.state, State::Waiting) {
                container.last = Some(ended.last);
            }
        }
    }

    /// When the next step for the sandbox is due.
    pub(super) fn sandbox_due_at(&self) -> Option<Time> {
        match self.sandbox.stage {
            Stage::Absent { retry_at, .. } => {
                let is_wanted = self.began_at.is_some() && !self.is_terminating() && self.has_images();
                is_wanted.then_some(retry_at)
            }
            Stage::Stopping { give_up_at } => Some(give_up_at),
            Stage::Starting | Stage::Ready | Stage::Gone => None,
        }
    }

    pub(super) fn keep_sandbox(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.sandbox_due_at().is_none_or(|at| now < at) {
            return;
        }
        match self.sandbox.stage {
            Stage::Absent { lost_at, .. } => {
                if let Some(lost_at) = lost_at {
                    self.sandbox.back_off.lengthen(lost_at, now);
                }
                self.sandbox.stage = Stage::Starting;
                self.note_new_sandbox();
                out.push(Action::StartSandbox);
            }
            Stage::Stopping { .. } => {
                self.sandbox_stopped(now);
                // The next sandbox may need images that this one did not.
                self.keep_images(now, out);
                self.keep_sandbox(now, out);
            }
            Stage::Starting | Stage::Ready | Stage::Gone => {}
        }
    }

    /// Stops the sandbox once no container will run in it any more. The Pod is then in a final phase.
    pub(super) fn release_sandbox(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.is_over() {
            return;
        }
        match self.sandbox.stage {
            Stage::Absent { .. } => self.sandbox.stage = Stage::Gone,
            Stage::Starting | Stage::Ready => {
                self.sandbox.stage = Stage::Stopping {
                    give_up_at: now.saturating_add(STOP_PATIENCE),
                };
                out.push(Action::StopSandbox);
            }
            Stage::Stopping { .. } | Stage::Gone => {}
        }
    }

    /// Repeats the requests that were unfinished when the supervisor died, if there is no sandbox to take over.
    pub(super) fn resume(&mut self, now: Time, out: &mut Vec<Action>) {
        self.note_active_deadline(now, out);
        self.bound_waits(now);
        self.pull_again(out);
        let is_terminating = self.is_terminating();
        match &mut self.sandbox.stage {
            Stage::Starting if !is_terminating => {
                out.push(Action::StartSandbox);
                self.note_new_sandbox();
            }
            Stage::Stopping { give_up_at } => {
                *give_up_at = now.saturating_add(STOP_PATIENCE);
                out.push(Action::StopSandbox);
            }
            Stage::Absent { .. } | Stage::Starting | Stage::Ready | Stage::Gone => {}
        }
    }
}
