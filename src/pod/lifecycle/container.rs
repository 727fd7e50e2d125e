//! Handles the start and the end of containers.

use std::time::Duration;

use super::event;
use super::interface::{Action, CONFIG_ERROR, ContainerAttempt, Exit, Hook, ProcessUser, Time, is_create_error};
use super::plan::Role;
use super::restart::{self, FIRST_BACK_OFF, RELIST_PERIOD};
use super::state::Lifecycle;
use super::state::{Active, Cause, Ended, PostStart, Probes, Retry, Running, State, Terminated};

/// How long the guest may take for a start, from when it has finished all earlier ones (`runtimeRequestTimeout` of the
/// kubelet). After that, the container is killed if it exists.
const START_PATIENCE: Duration = Duration::from_secs(120);

impl Lifecycle {
    /// Starts the next attempt.
    pub(super) fn start_container(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let attempt = ContainerAttempt::new(index, container.next_attempt);
        let active = Active {
            attempt: attempt.number,
            asked_at: now,
            turn_at: None,
            running: None,
            stop: None,
        };
        if let State::Ended(ended) = std::mem::replace(&mut container.state, State::Active(active)) {
            container.back_off.lengthen(ended.last.finished_at, now);
            container.last = Some(ended.last);
        }
        container.ran_image = None;
        container.next_attempt = attempt.number.saturating_add(1);
        container.restart_count = container.restart_count.max(attempt.number);
        out.push(Action::StartContainer { attempt });
    }

    /// When a container whose start is not answered is abandoned.
    pub(super) fn start_patience_ends_at(active: &Active) -> Option<Time> {
        let turn_at = active.turn_at?;
        (active.running.is_none() && active.stop.is_none()).then(|| turn_at.saturating_add(START_PATIENCE))
    }

    /// Records which start is next: the guest performs the requested starts one after another, in this order.
    pub(super) fn note_turn(&mut self, now: Time) {
        let starting = self
            .containers
            .iter_mut()
            .filter_map(|container| container.active_mut());
        let first = starting
            .filter(|active| active.is_starting())
            .min_by_key(|active| active.asked_at);
        if let Some(active) = first {
            active.turn_at.get_or_insert(now);
        }
    }

    pub(super) fn container_started(
        &mut self,
        now: Time,
        attempt: ContainerAttempt,
        container_id: Option<String>,
        user: Option<ProcessUser>,
        out: &mut Vec<Action>,
    ) {
        let index = attempt.container;
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let next_attempt = container.next_attempt;
        let has_hook = container.plan.post_start;
        let Some(active) = container.attempt_mut(attempt.number) else {
            // The attempt was abandoned before its start was confirmed.
            if attempt.number < next_attempt {
                out.push(Action::KillContainer { attempt });
            }
            return;
        };
        if let Some(running) = &mut active.running {
            running.container_id = running.container_id.take().or(container_id);
            running.user = running.user.take().or(user);
            return;
        }
        let is_stopping = active.stop.is_some();
        active.running = Some(Running {
            container_id,
            user,
            started_at: now,
            post_start: if has_hook && !is_stopping {
                PostStart::Running
            } else {
                PostStart::Done
            },
            is_started: false,
            is_ready: false,
            probes: Probes::default(),
        });
        out.push(event::created(index));
        out.push(event::started(index));
        if is_stopping {
            self.stop_started(now, index, out);
        } else if has_hook {
            out.push(Action::RunHook {
                attempt,
                hook: Hook::PostStart,
                timeout: None,
            });
        } else {
            self.container_is_up(now, index);
        }
    }

    pub(super) fn container_start_failed(
        &mut self,
        now: Time,
        attempt: ContainerAttempt,
        reason: String,
        message: String,
        out: &mut Vec<Action>,
    ) {
        let index = attempt.container;
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let active = container.attempt_mut(attempt.number);
        let Some(active) = active.filter(|active| active.running.is_none()) else {
            return;
        };
        let is_stopping = active.stop.is_some();
        out.push(event::start_failed(index, &message));
        if is_create_error(&reason) {
            container.next_attempt = attempt.number;
            container.state = if is_stopping {
                State::Waiting
            } else {
                State::Refused {
                    reason,
                    message,
                    retry_at: now.saturating_add(FIRST_BACK_OFF),
                }
            };
        } else {
            let exit = Exit::start_error(message.clone());
            self.container_ended(now, index, exit, Some((reason, message)), out);
            self.restart_all_if_ruled(now, index);
        }
    }

    /// Retries the containers that wait for objects, which may exist now.
    pub(super) fn objects_changed(&mut self, now: Time) {
        for container in &mut self.containers {
            if let State::Refused { reason, retry_at, .. } = &mut container.state
                && reason == CONFIG_ERROR
            {
                *retry_at = now.min(*retry_at);
            }
        }
    }

    pub(super) fn container_exited(&mut self, now: Time, attempt: ContainerAttempt, exit: Exit, out: &mut Vec<Action>) {
        let index = attempt.container;
        let Some(active) = self.attempt_mut(attempt) else {
            return;
        };
        if active.running.is_none() {
            // The confirmation of the start has not arrived yet.
            active.running = Some(Running {
                container_id: None,
                user: None,
                started_at: active.asked_at,
                post_start: PostStart::Done,
                is_started: false,
                is_ready: false,
                probes: Probes::default(),
            });
            out.push(event::created(index));
            out.push(event::started(index));
        }
        self.container_ended(now, index, exit, None, out);
        self.restart_all_if_ruled(now, index);
    }

    /// Handles the loss of a container that ran, or may have run. The loss counts as a restart, so a container that
    /// must run only once does not run twice.
    pub(super) fn container_lost(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        self.container_ended(now, index, Exit::lost(), None, out);
        if let Some(container) = self.containers.get_mut(index) {
            container.restart_count = container.restart_count.max(container.next_attempt);
        }
    }

    fn container_ended(
        &mut self,
        now: Time,
        index: usize,
        exit: Exit,
        start_error: Option<(String, String)>,
        out: &mut Vec<Action>,
    ) {
        let is_terminating = self.is_terminating();
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let State::Active(active) = std::mem::replace(&mut container.state, State::Waiting) else {
            return;
        };
        if let Some(hook) = active.hook() {
            out.push(Action::CancelHook {
                attempt: active.attempt_of(index),
                hook,
            });
        }
        let is_restarted = !is_terminating
            && match active.stop.as_ref().map(|stop| (stop.changed, stop.cause)) {
                Some((Some(_), _)) => match container.plan.role {
                    Role::Init => exit.code != 0,
                    Role::Ephemeral => false,
                    Role::Main | Role::Sidecar => true,
                },
                Some((None, Cause::Probe(_))) => restart::restarts_after_probe(&self.plan, &container.plan),
                _ => restart::restarts(&self.plan, &container.plan, exit.code),
            };
        let retry = is_restarted.then(|| {
            let wait = container.back_off.wait_after(now);
            // A failed start is not repeated immediately.
            let pause = if start_error.is_some() {
                wait.max(FIRST_BACK_OFF)
            } else {
                wait
            };
            Retry {
                at: now.saturating_add(pause),
                back_off: (!wait.is_zero()).then_some(wait),
                is_shown: false,
            }
        });
        if container.plan.role == Role::Init && exit.code == 0 {
            container.is_initialized = true;
        }
        self.ends = self.ends.saturating_add(1);
        let running = active.running;
        container.state = State::Ended(Ended {
            last: Terminated {
                exit,
                container_id: running.as_ref().and_then(|running| running.container_id.clone()),
                started_at: running.as_ref().map(|running| running.started_at),
                user: running.and_then(|running| running.user),
                finished_at: now,
                order: self.ends,
            },
            retry,
            start_error,
        });
    }

    /// When the status of an ended container changes from its end to its back-off.
    pub(super) fn end_shown_at(&self, index: usize) -> Option<Time> {
        match &self.containers.get(index)?.state {
            State::Ended(ended) => {
                let retry = ended.retry.as_ref()?;
                let waits = retry.back_off.is_some() && !retry.is_shown;
                waits.then(|| ended.last.finished_at.saturating_add(RELIST_PERIOD))
            }
            _ => None,
        }
    }

    pub(super) fn show_ends(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            if self.end_shown_at(index).is_none_or(|at| now < at) {
                continue;
            }
            let pod = event::pod_reference(&self.plan);
            if let Some(container) = self.containers.get_mut(index)
                && let State::Ended(ended) = &mut container.state
                && let Some(retry) = &mut ended.retry
            {
                retry.is_shown = true;
                out.push(event::back_off(index, &container.plan.name, &pod));
            }
        }
    }
}
