//! Recovers after a restart of the supervisor: compares the content of the sandbox with the recorded state, repeats
//! unfinished requests, and restarts a termination with its full grace period, as the kubelet does.

use std::time::Duration;

use super::interface::{Action, ContainerAttempt, FoundAttempt, Hook, Time};
use super::state::Lifecycle;
use super::state::{Active, Cause, Container, Image, PostStart, Stage, State, Step, Stop};
use super::termination::KILL_PATIENCE;

/// The longest back-off. A longer wait means that the clock was set back.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

impl Lifecycle {
    /// The attempts that the sandbox may contain, and that a supervisor must follow when it takes over. There is at
    /// most one per container: the requested or running one, or the next one if its start was not recorded. Other
    /// attempts found there are killed.
    pub fn expected_attempts(&self) -> impl Iterator<Item = ContainerAttempt> {
        (0..self.containers.len()).filter_map(|container| self.expected_attempt(container))
    }

    fn expected_attempt(&self, index: usize) -> Option<ContainerAttempt> {
        let container = self.containers.get(index)?;
        match container.active() {
            Some(active) => Some(active.attempt_of(index)),
            None => container
                .may_have_been_started()
                .then(|| ContainerAttempt::new(index, container.next_attempt)),
        }
    }

    /// Whether this is one of [`Self::expected_attempts`].
    #[must_use]
    pub fn expects(&self, attempt: ContainerAttempt) -> bool {
        self.expected_attempt(attempt.container) == Some(attempt)
    }

    /// Whether this is an earlier attempt, whose end no longer matters.
    #[must_use]
    pub fn is_past(&self, attempt: ContainerAttempt) -> bool {
        self.containers
            .get(attempt.container)
            .is_some_and(|container| attempt.number < container.next_attempt)
            && !self.expects(attempt)
    }

    pub(super) fn supervisor_restarted(
        &mut self,
        now: Time,
        found: &[FoundAttempt],
        starting: &[ContainerAttempt],
        out: &mut Vec<Action>,
    ) {
        if !self.sandbox.is_ready() {
            return self.resume(now, out);
        }
        self.note_active_deadline(now, out);
        self.bound_waits(now);
        // Images of containers that changed are pulled while the sandbox runs.
        self.pull_again(out);
        if let Some(termination) = &mut self.termination {
            termination.ends_at = now.saturating_add(termination.grace);
            termination.is_exceeded = false;
        }
        for index in 0..self.containers.len() {
            let of_container = found.iter().copied().filter(|found| found.attempt.container == index);
            let starting_now = starting.iter().filter(|attempt| attempt.container == index);
            let starting_now = starting_now.map(|attempt| FoundAttempt {
                attempt: *attempt,
                has_ended: false,
            });
            self.adopt(now, of_container.chain(starting_now), out);
            let active = self.containers.get(index).and_then(|container| container.active());
            let Some(active) = active else { continue };
            let (attempt, runs) = (active.attempt_of(index), active.running.is_some());
            let is_starting = starting.contains(&attempt);
            let found = found.iter().find(|found| found.attempt == attempt);
            match found.map(|found| found.has_ended) {
                None if is_starting && !runs => self.await_start(now, index, out),
                // The attempt is known to have started before.
                None if is_starting => self.compare(now, attempt, Some(false), out),
                has_ended => self.compare(now, attempt, has_ended, out),
            }
        }
        self.end_if_finished(now, out);
        let is_found = |attempt| starting.contains(&attempt) || found.iter().any(|found| found.attempt == attempt);
        for index in 0..self.containers.len() {
            self.forget_start(index, is_found);
        }
        if self.is_killing() {
            self.kill_requested(now, out);
        }
    }

    /// Handles the restart and the loss in one step: this supervisor requests the actions that follow from the loss, so
    /// they must not be repeated like requests of its predecessor.
    pub(super) fn supervisor_restarted_alone(&mut self, now: Time, message: &str, out: &mut Vec<Action>) {
        if self.began_at.is_none() {
            if !self.is_invalid && !self.is_unplaced {
                self.begin(now);
            }
            return;
        }
        self.note_active_deadline(now, out);
        self.bound_waits(now);
        self.pull_again(out);
        self.sandbox_lost(now, message, out);
    }

    /// Discards a start that left no trace. The same attempt is repeated in its turn, unless the Pod ends.
    fn forget_start(&mut self, index: usize, is_found: impl Fn(ContainerAttempt) -> bool) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Some(active) = container.active() else { return };
        let attempt = active.attempt_of(index);
        if active.running.is_none() && !is_found(attempt) {
            container.next_attempt = attempt.number;
            container.state = State::Waiting;
        }
    }

    /// Adopts a start that happened but was not recorded, and kills unexpected attempts.
    fn adopt(&mut self, now: Time, found: impl Iterator<Item = FoundAttempt>, out: &mut Vec<Action>) {
        for FoundAttempt { attempt, has_ended } in found {
            let Some(container) = self.containers.get_mut(attempt.container) else {
                continue;
            };
            if container.attempt_mut(attempt.number).is_some() {
                continue;
            }
            if attempt.number == container.next_attempt && container.may_have_been_started() {
                self.start_container(now, attempt.container, &mut Vec::new());
            } else if !has_ended {
                out.push(Action::KillContainer { attempt });
            }
        }
    }

    /// Waits again for a start in progress. A container that is being stopped gets its full grace period once it runs.
    fn await_start(&mut self, now: Time, index: usize, out: &mut Vec<Action>) {
        let is_kill = self.is_killing();
        let pod_end = self
            .termination
            .as_ref()
            .map(|termination| (termination.grace, termination.ends_at));
        let container = self.containers.get_mut(index);
        let Some(active) = container.and_then(|container| container.active_mut()) else {
            return;
        };
        active.asked_at = now;
        active.turn_at = None;
        match (pod_end, active.stop.take()) {
            // The container is killed with the others.
            _ if is_kill => {}
            (Some((grace, ends_at)), _) => self.stop_container(now, index, Cause::Pod, grace, ends_at, out),
            (None, Some(stop)) => {
                let ends_at = now.saturating_add(stop.grace);
                self.stop_with(now, index, Stop { ends_at, ..stop }, out);
            }
            (None, None) => {}
        }
    }

    /// Compares an expected attempt with what was found. `has_ended` is `None` if it was not found.
    fn compare(&mut self, now: Time, attempt: ContainerAttempt, has_ended: Option<bool>, out: &mut Vec<Action>) {
        let index = attempt.container;
        let is_kill = self.is_killing();
        let pod_end = self
            .termination
            .as_ref()
            .map(|termination| (termination.grace, termination.ends_at));
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        let Some(active) = container.active_mut() else { return };
        match (has_ended, &mut active.running) {
            // The container is started again below, once it is clear whether the Pod continues.
            (None, None) => {}
            (None, Some(_)) => self.container_lost(now, index, out),
            (Some(true), _) => await_end(now, active),
            // The container is killed below.
            (Some(false), _) if is_kill => active.stop = None,
            (Some(false), None) => {
                active.stop = None;
                if let Some((grace, ends_at)) = pod_end {
                    self.stop_container(now, index, Cause::Pod, grace, ends_at, out);
                }
                self.container_started(now, attempt, None, None, out);
            }
            (Some(false), Some(running)) => {
                running.probes.forget_asked(now);
                let is_hook_running = running.post_start == PostStart::Running;
                match (pod_end, active.stop.take()) {
                    // An unfinished stop starts again with its full grace period.
                    (Some((grace, ends_at)), _) => {
                        self.stop_container(now, index, Cause::Pod, grace, ends_at, out);
                    }
                    (None, Some(stop)) => {
                        let ends_at = now.saturating_add(stop.grace);
                        self.stop_with(now, index, Stop { ends_at, ..stop }, out);
                    }
                    (None, None) if is_hook_running => out.push(Action::RunHook {
                        attempt,
                        hook: Hook::PostStart,
                        timeout: None,
                    }),
                    (None, None) => {}
                }
            }
        }
    }

    fn is_killing(&self) -> bool {
        self.termination.as_ref().is_some_and(|termination| termination.is_kill)
    }

    /// Shortens waits that are too long because the clock was set back.
    pub(super) fn bound_waits(&mut self, now: Time) {
        let latest = now.saturating_add(LONGEST_WAIT);
        let bound = |at: &mut Time| *at = (*at).min(latest);
        if let Stage::Absent { retry_at, .. } = &mut self.sandbox.stage {
            bound(retry_at);
        }
        let volumes = self.image_volumes.iter_mut().map(|volume| &mut volume.image);
        let containers = self.containers.iter_mut().map(|container| &mut container.image);
        for image in volumes.chain(containers) {
            if let Image::Failed { retry_at, .. } = image {
                bound(retry_at);
            }
        }
        for container in &mut self.containers {
            match &mut container.state {
                State::Refused { retry_at, .. } => bound(retry_at),
                State::Ended(ended) => {
                    if let Some(retry) = &mut ended.retry {
                        bound(&mut retry.at);
                    }
                }
                State::Waiting | State::Active(_) => {}
            }
        }
    }
}

impl Container {
    /// Whether the container's next attempt may have been started without being recorded.
    fn may_have_been_started(&self) -> bool {
        match &self.state {
            State::Waiting | State::Refused { .. } => true,
            State::Ended(ended) => ended.retry.is_some(),
            State::Active(_) => false,
        }
    }
}

/// Waits for the event that reports how the container has ended. If the event does not arrive, the container is lost.
fn await_end(now: Time, active: &mut Active) {
    let (grace, cause) = active
        .stop
        .as_ref()
        .map_or((Duration::ZERO, Cause::Itself), |stop| (stop.grace, stop.cause));
    // The container no longer needs to be stopped, but a failed probe still decides whether it is restarted.
    let cause = if cause == Cause::Pod { Cause::Itself } else { cause };
    active.stop = Some(Stop {
        cause,
        changed: active.stop.as_ref().and_then(|stop| stop.changed),
        grace,
        ends_at: now,
        step: Step::Killed {
            give_up_at: now.saturating_add(KILL_PATIENCE),
        },
    });
}
