//! The sandbox: the virtual machine that the Pod's containers run in. It starts when all images are there, is started again when it is
//! lost and something may still run, and is stopped when nothing will.

use std::time::Duration;

use super::event;
use super::interface::Action;
use super::interface::Time;
use super::plan::RestartPolicy;
use super::state::Lifecycle;
use super::state::{Stage, State};

/// How long a sandbox may take to stop before it is taken for gone: all its containers are dead by then.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

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
            Stage::Stopping { .. } => self.sandbox.stage = Stage::Gone,
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
        if had_run && self.plan.restart_policy == RestartPolicy::Never && !is_anything_restarted {
            // What did not come to start beside the others is not started without them either.
            return self.begin_termination(now, self.plan.grace, out);
        }
        out.push(event::sandbox_changed());
        // Init containers run again in a new sandbox.
        for container in self.containers.iter_mut().filter(|container| container.plan.is_init()) {
            container.is_initialized = false;
            if let State::Ended(ended) = std::mem::replace(&mut container.state, State::Waiting) {
                container.last = Some(ended.last);
            }
        }
    }

    /// When something is to be done about the sandbox.
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
                out.push(Action::StartSandbox);
            }
            Stage::Stopping { .. } => self.sandbox.stage = Stage::Gone,
            Stage::Starting | Stage::Ready | Stage::Gone => {}
        }
    }

    /// Stops the sandbox once nothing will run in it any more. The Pod is in its last phase then.
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

    /// Asks again for what was under way when the supervisor died and there is no sandbox to ask.
    pub(super) fn resume(&mut self, now: Time, out: &mut Vec<Action>) {
        self.note_active_deadline(now, out);
        self.bound_waits(now);
        self.pull_again(out);
        let is_terminating = self.is_terminating();
        match &mut self.sandbox.stage {
            Stage::Starting if !is_terminating => out.push(Action::StartSandbox),
            Stage::Stopping { give_up_at } => {
                *give_up_at = now.saturating_add(STOP_PATIENCE);
                out.push(Action::StopSandbox);
            }
            Stage::Absent { .. } | Stage::Starting | Stage::Ready | Stage::Gone => {}
        }
    }
}
