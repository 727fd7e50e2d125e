//! How containers are stopped (`killContainer` in `pkg/kubelet/kuberuntime/kuberuntime_container.go`): preStop hook,
//! for sidecars a wait for their turn, stop signal, SIGKILL. All steps share one grace period, with at least two
//! seconds between the stop signal and SIGKILL. This module also decides when a Pod ends: it is deleted or evicted, its
//! deadline has passed, or nothing is left to run.

use std::time::Duration;

use super::interface::Time;
use super::interface::{Action, Hook, ProbeKind};
use super::plan::Role;
use super::state::Lifecycle;
use super::state::{Active, Cause, Changed, Deletion, PostStart, State, Step, Stop, Termination};
use super::{event, restart};

/// Minimum time between a container's stop signal and SIGKILL (`minimumGracePeriodInSeconds` of the kubelet).
pub const MINIMUM_GRACE: Duration = Duration::from_secs(2);

/// The grace period of an evicted Pod (`immediateEvictionGracePeriodSeconds` of the kubelet).
const EVICTION_GRACE: Duration = Duration::from_secs(1);

/// How long after SIGKILL a container's end may be reported before it counts as lost. SIGKILL cannot be ignored, so
/// only a faulty guest or blocked output takes this long.
pub const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// The latest time for SIGKILL after the stop signal.
fn kill_at(now: Time, ends_at: Time) -> Time {
    ends_at.max(now.saturating_add(MINIMUM_GRACE))
}

impl Lifecycle {
    pub(super) fn terminate_requested(
        &mut self,
        now: Time,
        grace: Option<Duration>,
        deletion: bool,
        out: &mut Vec<Action>,
    ) {
        let mut grace = grace.unwrap_or(self.plan.grace);
        if deletion {
            // A Pod in a final phase needs no grace period (`CheckGracefulDelete`).
            if self.phase.is_terminal() {
                grace = Duration::ZERO;
            }
            let at = now.saturating_add(grace);
            self.deletion = Some(match self.deletion {
                Some(earlier) => Deletion {
                    at: earlier.at.min(at),
                    grace: earlier.grace.min(grace),
                },
                None => Deletion { at, grace },
            });
        }
        self.begin_termination(now, grace, out);
    }

    /// Ends the Pod, or shortens the grace period of its end.
    pub(super) fn begin_termination(&mut self, now: Time, grace: Duration, out: &mut Vec<Action>) {
        let (grace, ends_at) = self.enter_termination(now, grace, false);
        for index in 0..self.containers.len() {
            self.stop_container(now, index, Cause::Pod, grace, ends_at, out);
        }
    }

    /// Ends a Pod beyond its limits of local storage (`evictPod` in `pkg/kubelet/eviction/eviction_manager.go`). Like the
    /// kubelet, sets no condition: the Pod itself is the cause.
    pub(super) fn evicted(&mut self, now: Time, message: String, out: &mut Vec<Action>) {
        if self.began_at.is_none() || self.phase.is_terminal() {
            return;
        }
        out.push(event::evicted(message.clone()));
        self.eviction = Some(message);
        self.begin_termination(now, EVICTION_GRACE, out);
    }

    pub(super) fn kill_requested(&mut self, now: Time, out: &mut Vec<Action>) {
        let (grace, ends_at) = self.enter_termination(now, Duration::ZERO, true);
        for index in 0..self.containers.len() {
            let Some(container) = self.containers.get_mut(index) else {
                continue;
            };
            let name = container.plan.name.clone();
            let Some(active) = container.active_mut() else { continue };
            match &mut active.stop {
                Some(stop) if matches!(stop.step, Step::Killed { .. }) => continue,
                Some(stop) => stop.cause = Cause::Pod,
                None => {
                    active.stop = Some(Stop {
                        cause: Cause::Pod,
                        changed: None,
                        grace,
                        ends_at,
                        step: Step::Starting,
                    });
                    if active.running.is_some() {
                        out.push(event::killing(index, format!("Stopping container {name}")));
                    }
                }
            }
            self.kill(now, index, out);
        }
    }

    /// Prevents further starts. Returns the grace period and its end; later calls can only shorten them.
    fn enter_termination(&mut self, now: Time, grace: Duration, is_kill: bool) -> (Duration, Time) {
        let ends_at = now.saturating_add(grace);
        let termination = self.termination.get_or_insert(Termination {
            grace,
            ends_at,
            is_kill,
            is_exceeded: false,
        });
        termination.grace = termination.grace.min(grace);
        termination.ends_at = termination.ends_at.min(ends_at);
        termination.is_kill |= is_kill;
        self.restart_all = None;
        for container in &mut self.containers {
            match &mut container.state {
                State::Ended(ended) => ended.retry = None,
                State::Refused { .. } => container.state = State::Waiting,
                State::Waiting | State::Active(_) => {}
            }
        }
        (termination.grace, termination.ends_at)
    }

    /// Starts to stop a container that runs or whose start was requested. A container that is already being stopped
    /// gets the shorter grace period.
    pub(super) fn stop_container(
        &mut self,
        now: Time,
        index: usize,
        cause: Cause,
        grace: Duration,
        ends_at: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(active) = self.active_mut(index) else { return };
        if let Some(stop) = &mut active.stop {
            if cause == Cause::Pod {
                stop.cause = Cause::Pod;
            }
            stop.grace = stop.grace.min(grace);
            stop.ends_at = stop.ends_at.min(ends_at);
            if let Step::Signalled { kill_at: at } = &mut stop.step {
                *at = (*at).min(kill_at(now, stop.ends_at));
            }
            return;
        }
        let stop = Stop {
            cause,
            changed: None,
            grace,
            ends_at,
            step: Step::Starting,
        };
        self.stop_with(now, index, stop, out);
    }

    /// Starts a stop, which replaces an earlier one.
    pub(super) fn stop_with(&mut self, now: Time, index: usize, stop: Stop, out: &mut Vec<Action>) {
        let Some(active) = self.active_mut(index) else { return };
        active.stop = Some(Stop {
            step: Step::Starting,
            ..stop
        });
        if active.running.is_some() {
            self.stop_started(now, index, out);
        }
    }

    /// The first step for a container that is known to run.
    pub(super) fn stop_started(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let message = self.killing_message(index);
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let has_hook = container.plan.pre_stop;
        let Some(active) = container.active_mut() else { return };
        let attempt = active.attempt_of(index);
        let Some(stop) = &mut active.stop else { return };
        if let Step::Killed { .. } = stop.step {
            // SIGKILL was sent before the container ran.
            out.push(Action::KillContainer { attempt });
            return;
        }
        if let Some(running) = &mut active.running
            && running.post_start == PostStart::Running
        {
            running.post_start = PostStart::Done;
            out.push(Action::CancelHook {
                attempt,
                hook: Hook::PostStart,
            });
        }
        out.push(event::killing(index, message));
        let left = stop.ends_at.saturating_sub(now);
        if has_hook && !left.is_zero() {
            stop.step = Step::PreStop;
            out.push(Action::RunHook {
                attempt,
                hook: Hook::PreStop,
                timeout: Some(left),
            });
        } else {
            self.stop_after_hook(now, index, out);
        }
    }

    /// Continues the stop after the preStop hook, or without one.
    pub(super) fn stop_after_hook(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let is_its_turn = self.is_turn_of(index);
        let Some(active) = self.active_mut(index) else { return };
        let attempt = active.attempt_of(index);
        let Some(stop) = &mut active.stop else { return };
        let in_turn = stop.cause == Cause::Pod || stop.changed == Some(Changed::Sandbox);
        if in_turn && !is_its_turn && now < stop.ends_at {
            stop.step = Step::Turn;
            return;
        }
        stop.step = Step::Signalled {
            kill_at: kill_at(now, stop.ends_at),
        };
        out.push(Action::StopContainer { attempt });
    }

    /// A sidecar stops after the containers that it serves: all of `containers`, and the sidecars that started after
    /// it.
    fn is_turn_of(&self, index: usize) -> bool {
        if self
            .containers
            .get(index)
            .is_none_or(|container| !container.plan.is_sidecar())
        {
            return true;
        }
        !self
            .containers
            .iter()
            .skip(index.saturating_add(1))
            .any(|container| matches!(container.plan.role, Role::Main | Role::Sidecar) && container.is_active())
    }

    fn killing_message(&self, index: usize) -> String {
        let Some(container) = self.containers.get(index) else {
            return String::new();
        };
        let name = &container.plan.name;
        let stop = container.active().and_then(|active| active.stop.as_ref());
        if stop.is_some_and(|stop| stop.cause != Cause::Pod && stop.changed == Some(Changed::Definition)) {
            return if container.plan.is_init() {
                format!("Init container {name} definition changed")
            } else {
                format!("Container {name} definition changed, will be restarted")
            };
        }
        match stop.map_or(Cause::Pod, |stop| stop.cause) {
            Cause::Pod | Cause::Itself => format!("Stopping container {name}"),
            Cause::PostStart => "FailedPostStartHook".to_owned(),
            Cause::Probe(kind) => {
                let kind = if kind == ProbeKind::Startup {
                    "startup"
                } else {
                    "liveness"
                };
                if container.plan.is_init() {
                    format!("Init container {name} failed {kind} probe")
                } else if restart::restarts_after_probe(&self.plan, &container.plan) {
                    format!("Container {name} failed {kind} probe, will be restarted")
                } else {
                    format!("Container {name} failed {kind} probe")
                }
            }
        }
    }

    /// When the next step of the container's stop is due, or its unanswered start is abandoned.
    pub(super) fn stop_due_at(&self, index: usize) -> Option<Time> {
        let active = self.containers.get(index)?.active()?;
        let Some(stop) = &active.stop else {
            return Self::start_patience_ends_at(active);
        };
        Some(match stop.step {
            // The stop signal cannot be sent, so SIGKILL comes next.
            Step::Starting => stop.ends_at.saturating_add(MINIMUM_GRACE),
            Step::PreStop | Step::Turn => stop.ends_at,
            Step::Signalled { kill_at } => kill_at,
            Step::Killed { give_up_at } => give_up_at,
        })
    }

    /// Takes the next step for containers whose time is up: sends the stop signal or SIGKILL, or abandons them.
    pub(super) fn stop_overdue(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            if self.stop_due_at(index).is_none_or(|at| now < at) {
                continue;
            }
            let Some(active) = self.containers.get(index).and_then(|container| container.active()) else {
                continue;
            };
            let attempt = active.attempt_of(index);
            match active.stop.as_ref().map(|stop| (stop.step, stop.cause)) {
                Some((Step::PreStop, _)) => {
                    out.push(Action::CancelHook {
                        attempt,
                        hook: Hook::PreStop,
                    });
                    self.stop_after_hook(now, index, out);
                }
                Some((Step::Turn, _)) => self.stop_after_hook(now, index, out),
                Some((Step::Killed { .. }, _)) => self.container_lost(now, index, out),
                Some((Step::Starting | Step::Signalled { .. }, cause)) => {
                    if cause == Cause::Pod
                        && let Some(termination) = &mut self.termination
                        && !std::mem::replace(&mut termination.is_exceeded, true)
                    {
                        out.push(event::exceeded_grace_period());
                    }
                    self.kill(now, index, out);
                }
                None => self.kill(now, index, out),
            }
        }
    }

    /// Sends the stop signal to sidecars whose turn has come.
    pub(super) fn stop_in_turn(&mut self, now: Time, out: &mut Vec<Action>) {
        for index in 0..self.containers.len() {
            let waits = self
                .containers
                .get(index)
                .and_then(|container| container.active()?.stop.as_ref())
                .is_some_and(|stop| stop.step == Step::Turn);
            if waits && self.is_turn_of(index) {
                self.stop_after_hook(now, index, out);
            }
        }
    }

    fn active_mut(&mut self, index: usize) -> Option<&mut Active> {
        self.containers.get_mut(index)?.active_mut()
    }

    pub(super) fn kill(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let grace = self.plan.grace;
        let Some(active) = self.active_mut(index) else { return };
        let attempt = active.attempt_of(index);
        if let Some(hook) = active.hook() {
            out.push(Action::CancelHook { attempt, hook });
        }
        finish_post_start(active);
        let step = Step::Killed {
            give_up_at: now.saturating_add(KILL_PATIENCE),
        };
        match &mut active.stop {
            Some(stop) => stop.step = step,
            None => {
                active.stop = Some(Stop {
                    cause: Cause::Itself,
                    changed: None,
                    grace,
                    ends_at: now,
                    step,
                });
            }
        }
        out.push(Action::KillContainer { attempt });
    }

    /// Ends a Pod in which no more containers will be started: stops the sidecars that still run.
    pub(super) fn end_if_finished(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.is_terminating() && self.has_finished() {
            self.begin_termination(now, self.plan.grace, out);
        }
    }

    /// Whether the Pod must end and nothing runs any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_terminating() && !self.containers.iter().any(|container| container.is_active())
    }

    /// When `activeDeadlineSeconds` will have passed.
    pub(super) fn active_deadline_at(&self) -> Option<Time> {
        if self.deadline_exceeded || self.eviction.is_some() || self.phase.is_terminal() {
            return None;
        }
        Some(self.began_at?.saturating_add(self.plan.active_deadline?))
    }

    pub(super) fn keep_active_deadline(&mut self, now: Time, out: &mut Vec<Action>) {
        let was_terminating = self.is_terminating();
        if self.note_active_deadline(now, out) && !was_terminating {
            self.begin_termination(now, self.plan.grace, out);
        }
    }

    /// Ends the Pod if its deadline has passed. The caller stops what runs.
    pub(super) fn note_active_deadline(&mut self, now: Time, out: &mut Vec<Action>) -> bool {
        let is_due = self.active_deadline_at().is_some_and(|at| at <= now);
        if is_due {
            self.deadline_exceeded = true;
            out.push(event::deadline_exceeded());
            if !self.is_terminating() {
                self.enter_termination(now, self.plan.grace, false);
            }
        }
        is_due
    }
}

/// Stops waiting for the postStart hook.
fn finish_post_start(active: &mut Active) {
    if let Some(running) = &mut active.running
        && running.post_start == PostStart::Running
    {
        running.post_start = PostStart::Done;
    }
}
