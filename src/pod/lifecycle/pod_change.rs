//! Handles changes of a running Pod. A container whose image changes is restarted, whatever its restart policy
//! (`containerChanged` in `pkg/kubelet/kuberuntime`).
//!
//! The supervisor adds the new image to the sandbox before it starts the container there. If it reports that the image
//! cannot be added, the sandbox is replaced: all containers are stopped and start again in a new one, with the images
//! that the Pod has at that time. The Pod keeps its address and its volumes on disk.

use k8s_openapi::api::core::v1::{Pod, PodCondition};

use super::event;
use super::interface::{Action, CREATE_ERROR, ContainerAttempt, PodChange, Time};
use super::plan::{self, PodPlan, Role};
use super::restart::BackOff;
use super::sandbox::STOP_PATIENCE;
use super::state::{Cause, Changed, Container, Image, Lifecycle, RanImage, Retry, Stage, State, Step, Stop};

impl PodChange {
    /// The state after the change.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let plan = PodPlan::of(pod);
        Self {
            generation: plan.generation,
            grace: plan.grace,
            active_deadline: plan.active_deadline,
            scheduling_gates: plan.scheduling_gates,
            images: plan::containers(pod).map(|container| container.image).collect(),
        }
    }
}

impl Lifecycle {
    pub(super) fn pod_changed(&mut self, now: Time, change: PodChange, out: &mut Vec<Action>) {
        let was_gated = self.is_gated();
        self.plan.generation = change.generation;
        self.plan.grace = change.grace;
        self.plan.active_deadline = change.active_deadline;
        self.plan.scheduling_gates = change.scheduling_gates;
        if was_gated && !self.is_invalid && !self.is_unplaced {
            self.begin(now);
        }
        for (index, image) in change.images.into_iter().enumerate() {
            self.image_changed(now, index, image, out);
        }
    }

    /// The conditions that clients have set.
    #[must_use]
    pub fn client_conditions(&self) -> &[PodCondition] {
        &self.client_conditions
    }

    /// Replaces the conditions that clients have set.
    pub(super) fn conditions_set(&mut self, conditions: Vec<PodCondition>) {
        self.client_conditions = conditions;
    }

    /// Whether scheduling gates keep the Pod from starting.
    pub(super) fn is_gated(&self) -> bool {
        self.began_at.is_none() && !self.plan.scheduling_gates.is_empty()
    }

    fn image_changed(&mut self, now: Time, index: usize, image: String, out: &mut Vec<Action>) {
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        if container.plan.image == image {
            return;
        }
        let old = std::mem::replace(&mut container.plan.image, image);
        if container.has_run() && container.ran_image.is_none() {
            let id = match &container.image {
                Image::Ready { id } => id.clone(),
                Image::Unasked | Image::Wanted { .. } | Image::Failed { .. } => String::new(),
            };
            container.ran_image = Some(RanImage { name: old, id });
        }
        // The sandbox may have room for this image, or already have it.
        container.needs_sandbox = false;
        container.image = Image::Unasked;
        // The kubelet counts failures per definition of a container.
        container.back_off = BackOff::default();
        match &mut container.state {
            State::Refused { .. } => container.state = State::Waiting,
            State::Ended(ended) => {
                if let Some(retry) = &mut ended.retry {
                    *retry = Retry {
                        at: now,
                        back_off: None,
                        is_shown: false,
                    };
                }
            }
            State::Active(_) if container.plan.role != Role::Init => {
                self.stop_changed(now, index, Changed::Definition, out);
            }
            State::Active(_) | State::Waiting => {}
        }
    }

    /// Stops a container that starts again afterwards, whatever its restart policy.
    fn stop_changed(&mut self, now: Time, index: usize, changed: Changed, out: &mut Vec<Action>) {
        let grace = self.plan.grace;
        let Some(active) = self.containers.get_mut(index).and_then(Container::active_mut) else {
            return;
        };
        if let Some(stop) = &mut active.stop {
            stop.changed.get_or_insert(changed);
            return;
        }
        let stop = Stop {
            cause: Cause::Itself,
            changed: Some(changed),
            grace,
            ends_at: now.saturating_add(grace),
            step: Step::Starting,
        };
        self.stop_with(now, index, stop, out);
    }

    /// Handles a start that failed because the image cannot be added to the sandbox. The container was not created.
    pub(super) fn image_not_added(
        &mut self,
        now: Time,
        attempt: ContainerAttempt,
        message: String,
        out: &mut Vec<Action>,
    ) {
        let index = attempt.container;
        let Some(container) = self.containers.get_mut(index) else {
            return;
        };
        if container.plan.is_ephemeral() {
            // The sandbox stays as it is, and the attempt is repeated.
            return self.container_start_failed(now, attempt, CREATE_ERROR.to_owned(), message, out);
        }
        let active = container.attempt_mut(attempt.number);
        let Some(active) = active.filter(|active| active.running.is_none()) else {
            return;
        };
        // The image may have changed again while the container was being stopped.
        container.needs_sandbox = active.stop.is_none();
        container.next_attempt = attempt.number;
        container.state = State::Waiting;
        out.push(event::image_not_added(index, &message));
    }

    /// Starts to replace the sandbox if a container is due to start with an image that cannot be added to it. No
    /// container is started until the next sandbox is ready.
    pub(super) fn begin_replacement(&mut self, now: Time, out: &mut Vec<Action>) {
        let is_needed = (0..self.containers.len()).any(|index| {
            let container = self.containers.get(index);
            container.is_some_and(|container| container.needs_sandbox)
                && self.start_due_at(index).is_some_and(|at| at <= now)
        });
        if !is_needed {
            return;
        }
        self.sandbox.is_replaced = true;
        out.push(event::sandbox_changed());
        for index in 0..self.containers.len() {
            self.stop_changed(now, index, Changed::Sandbox, out);
        }
    }

    /// Stops a sandbox that is replaced, once all its containers have ended.
    pub(super) fn keep_replacement(&mut self, now: Time, out: &mut Vec<Action>) {
        let is_due = self.sandbox.is_replaced && self.sandbox.is_ready() && !self.is_terminating();
        if is_due && !self.containers.iter().any(Container::is_active) {
            self.sandbox.stage = Stage::Stopping {
                give_up_at: now.saturating_add(STOP_PATIENCE),
            };
            out.push(Action::StopSandbox);
        }
    }

    /// Whether another sandbox follows the one that is being stopped.
    #[must_use]
    pub fn replaces_sandbox(&self) -> bool {
        self.sandbox.is_replaced && !self.is_terminating()
    }

    /// Handles the end of a sandbox that was stopped for good or is being replaced.
    pub(super) fn sandbox_stopped(&mut self, now: Time) {
        if !std::mem::take(&mut self.sandbox.is_replaced) || self.is_terminating() {
            self.sandbox.stage = Stage::Gone;
            return;
        }
        self.sandbox.stage = Stage::Absent {
            retry_at: now,
            lost_at: None,
        };
        self.reset_init_containers();
    }

    /// Prepares for the start of a sandbox, with the images that the containers have now.
    pub(super) fn note_new_sandbox(&mut self) {
        for container in &mut self.containers {
            container.needs_sandbox = false;
        }
    }
}
