//! The life of a Pod as a pure state machine: its input is events and the time, its output is actions, and the Pod's
//! status can be read at any time. The state machine does no I/O and has no clock and no randomness. The supervisor
//! carries out the actions and answers with events, in any order or never. It sends [`Event::DeadlineReached`] at
//! [`Lifecycle::deadline`].
//!
//! The rules are the kubelet's, and the modules follow its structure: `admission` (Pods that the node does not run),
//! `images` (pulls and their back-off), `sandbox` (the virtual machine), `starting` (init containers, sidecars,
//! restarts), `restart` (policies and the back-off), `restart_all` (restarts of all containers in place), `ephemeral`
//! (containers that are added later), `probes`, `hooks`, `termination`, `pod_change` (changes of the running Pod),
//! `recovery` (after a restart of the supervisor), `phase`, `conditions` and `status` (the status of the Pod), `event`
//! (the text of its events). `plan` has the required parts of the manifest, `state` the data that all modules use, and
//! `transitions` the time of each condition's last change.
//!
//! `probes` decides whether a container is `ready` and `started`, `container` how it ends. For each deadline, one
//! function ("…_at") both arms and checks it, so a due deadline always has an effect.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

mod admission;
mod conditions;
mod container;
mod ephemeral;
mod event;
mod hooks;
mod images;
mod interface;
mod phase;
mod plan;
mod pod_change;
mod probes;
mod recovery;
mod restart;
mod restart_all;
mod sandbox;
mod starting;
mod state;
mod status;
mod termination;
mod transitions;

#[cfg(test)]
mod tests;

use interface::CONFIG_ERROR;
pub use interface::{
    Action, ContainerAttempt, Event, Exit, FoundAttempt, Hook, HookOutcome, ImageUse, NotPlaced, PodChange, PodEvent,
    ProbeKind, ProbeOutcome, ProcessUser, Time, is_create_error,
};
use plan::PodPlan;
use state::{Container, ImageVolume, SandboxState, State};
pub use state::{Lifecycle, Phase};
pub use termination::{KILL_PATIENCE, MINIMUM_GRACE};
use transitions::Conditions;

impl Lifecycle {
    /// Creates the life of a defaulted and validated Pod. Nothing happens before [`Event::Begin`].
    #[must_use]
    pub fn new(pod: &Pod, now: Time) -> Self {
        let mut lifecycle = Self {
            plan: PodPlan::of(pod),
            containers: plan::containers(pod).map(Container::new).collect(),
            image_volumes: plan::image_volumes(pod).map(ImageVolume::new).collect(),
            began_at: None,
            sandbox: SandboxState::default(),
            termination: None,
            deletion: None,
            deadline_exceeded: false,
            eviction: None,
            phase: Phase::Pending,
            conditions: Conditions::default(),
            ends: 0,
            restart_all: None,
            is_invalid: false,
            is_unplaced: false,
            not_placed: None,
            rejection: None,
            client_conditions: Vec::new(),
        };
        lifecycle.observe(now);
        lifecycle
    }

    /// Processes an event at time `now` and returns the resulting actions.
    pub fn step(&mut self, now: Time, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let out = &mut actions;
        match event.bounded() {
            Event::Begin => self.begin(now),
            Event::Rejected { reason, message } => self.rejected(now, reason, message, out),
            Event::Invalid { message } => self.found_invalid(message, out),
            Event::Unplaced { why } => self.unplaced(why),
            Event::SupervisorRestartedAlone { message } => self.supervisor_restarted_alone(now, &message, out),
            Event::ImagePullStarted { of } => self.image_pull_started(of, out),
            Event::ImageReady { of, image_id } => self.image_ready(now, of, image_id, out),
            Event::ImageFailed { of, reason, message } => self.image_failed(now, of, reason, message, out),
            Event::SandboxReady { pod_ip, host_ip } => self.sandbox_ready(pod_ip, host_ip),
            Event::SandboxFailed { message } => self.sandbox_failed(now, &message, out),
            Event::SandboxLost { message } => self.sandbox_lost(now, &message, out),
            Event::ContainerStarted {
                attempt,
                container_id,
                user,
            } => self.container_started(now, attempt, Some(container_id), user, out),
            Event::ContainerStartFailed {
                attempt,
                reason,
                message,
            } => self.container_start_failed(now, attempt, reason, message, out),
            Event::ContainerConfigUnavailable { attempt, message } => {
                self.container_start_failed(now, attempt, CONFIG_ERROR.to_owned(), message, out);
            }
            Event::ImageNotAdded { attempt, message } => self.image_not_added(now, attempt, message, out),
            Event::ObjectsChanged => self.objects_changed(now),
            Event::ContainerExited { attempt, exit } => self.container_exited(now, attempt, exit, out),
            Event::HookEnded { attempt, hook, outcome } => self.hook_ended(now, attempt, hook, outcome, out),
            Event::ProbeEnded {
                attempt,
                probe,
                outcome,
            } => self.probe_ended(now, attempt, probe, outcome, out),
            Event::TerminateRequested { grace, deletion } => self.terminate_requested(now, grace, deletion, out),
            Event::KillRequested => self.kill_requested(now, out),
            Event::SupervisorRestarted { found, starting } => {
                self.supervisor_restarted(now, &found, &starting, out);
            }
            Event::Evicted { message } => self.evicted(now, message, out),
            Event::PodChanged { change } => self.pod_changed(now, change, out),
            Event::ConditionsSet { conditions } => self.conditions_set(conditions),
            Event::DeadlineReached => {}
        }
        self.settle(now, out);
        actions
    }

    /// When [`Event::DeadlineReached`] is due, if ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Time> {
        let images = self.image_uses().map(|of| self.image_due_at(of));
        let containers = (0..self.containers.len()).flat_map(|index| {
            [
                self.start_due_at(index),
                self.end_shown_at(index),
                self.stop_due_at(index),
                self.probes_due_at(index),
            ]
        });
        containers
            .chain(images)
            .chain([
                self.active_deadline_at(),
                self.sandbox_due_at(),
                self.restart_all_due_at(),
            ])
            .flatten()
            .min()
    }

    /// `deletionTimestamp` (the end of the grace period, as in Kubernetes) and `deletionGracePeriodSeconds`, once the
    /// Pod's deletion was requested.
    #[must_use]
    pub fn deletion(&self) -> Option<(Time, Duration)> {
        self.deletion.map(|deletion| (deletion.at, deletion.grace))
    }

    /// Whether the Pod has ended: it is in a final phase, and its sandbox is gone.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.phase.is_terminal() && self.sandbox.is_gone()
    }

    /// Whether there is a sandbox that a new supervisor can take over and report with [`Event::SupervisorRestarted`]. A
    /// sandbox that was still starting or already stopping must be removed and reported with
    /// [`Event::SupervisorRestartedAlone`].
    #[must_use]
    pub fn has_sandbox(&self) -> bool {
        self.sandbox.is_ready()
    }

    /// Whether the Pod's containers are being, or have been, stopped for good.
    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.termination.is_some()
    }

    /// The exit code of `run`: 0 if every container succeeded in the end, otherwise the code of the first that failed.
    /// The code is 1 if the Pod failed for another reason (its deadline, or an end before its containers started). The
    /// exit codes of sidecars and ephemeral containers do not count.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        let failures = self.containers.iter().filter_map(|container| match &container.state {
            State::Ended(ended) if container.plan.counts_for_exit_code() && ended.last.exit.code != 0 => {
                Some(&ended.last)
            }
            _ => None,
        });
        match failures.min_by_key(|last| last.order) {
            Some(last) => last.exit.code,
            None => u8::from(self.phase == Phase::Failed),
        }
    }

    /// Applies all rules that follow from the Pod's state and the time. Ends of containers come before their
    /// consequences.
    fn settle(&mut self, now: Time, out: &mut Vec<Action>) {
        self.keep_active_deadline(now, out);
        self.stop_overdue(now, out);
        self.show_ends(now, out);
        self.keep_restart_all(now, out);
        self.end_if_finished(now, out);
        self.stop_in_turn(now, out);
        self.keep_images(now, out);
        self.keep_sandbox(now, out);
        self.begin_replacement(now, out);
        self.start_containers(now, out);
        self.note_turn(now);
        self.run_probes(now, out);
        self.observe(now);
        self.keep_replacement(now, out);
        self.release_sandbox(now, out);
        self.observe(now);
    }

    /// Updates phase and conditions.
    fn observe(&mut self, now: Time) {
        self.phase = self.next_phase();
        let states = self.condition_states();
        self.conditions.observe(now, &states);
    }
}
