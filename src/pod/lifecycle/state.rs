//! The state of a Pod's life, with methods that read it without applying rules: containers with their images, probes
//! and ends, the sandbox, and the termination. The state is saved after every step, so the names of types and fields
//! are a format on disk.
//!
//! The other modules decide when the state changes.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodCondition;
use serde::{Deserialize, Serialize};

use super::interface::{ContainerAttempt, Exit, Hook, NotPlaced, ProbeKind, ProcessUser, Time};
use super::plan::{ContainerPlan, ImageVolumePlan, PodPlan};
use super::restart::BackOff;
use super::transitions::Conditions;

/// The whole state of a Pod's life, saved after every step so another process can continue it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    pub(super) plan: PodPlan,
    /// Init containers in order, then the others.
    pub(super) containers: Vec<Container>,
    /// The volumes that show images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) image_volumes: Vec<ImageVolume>,
    pub(super) began_at: Option<Time>,
    pub(super) sandbox: SandboxState,
    pub(super) termination: Option<Termination>,
    pub(super) deletion: Option<Deletion>,
    /// The Pod was active for longer than its `activeDeadlineSeconds`.
    pub(super) deadline_exceeded: bool,
    /// Why the Pod was evicted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) eviction: Option<String>,
    pub(super) phase: Phase,
    pub(super) conditions: Conditions,
    /// How many attempts have ended so far: determines which one failed first.
    pub(super) ends: u64,
    /// A restart of all containers in progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) restart_all: Option<RestartAll>,
    /// The node ignores the Pod.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_invalid: bool,
    /// The Pod's claims have no volumes yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) is_unplaced: bool,
    /// Why they have none, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) not_placed: Option<NotPlaced>,
    /// Why the node has rejected the Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rejection: Option<Rejection>,
    /// Conditions that clients have set for readiness gates. The kubelet's own are not among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) client_conditions: Vec<PodCondition>,
}

/// A restart of all containers, triggered by an exit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartAll {
    pub began_at: Time,
    /// All containers have ended and wait to start again.
    pub is_reset: bool,
}

/// The kubelet's reason and message for a Pod that it does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started yet.
    Pending,
    /// At least one container runs or will run again.
    Running,
    /// All containers have ended for good and succeeded.
    Succeeded,
    /// All containers have ended for good, and at least one failed.
    Failed,
}

impl Phase {
    /// The phase as the status shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether the phase is final.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A container across all its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub plan: ContainerPlan,
    pub image: Image,
    pub state: State,
    /// How the previous attempt ended.
    pub last: Option<Terminated>,
    pub next_attempt: u32,
    pub restart_count: u32,
    pub back_off: BackOff,
    /// Whether the next init container may start in this sandbox: this one has succeeded or, if it is a sidecar, has
    /// started once.
    pub is_initialized: bool,
    /// The container's image cannot be added to the running sandbox, so its next start needs another sandbox.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_sandbox: bool,
    /// The image of the current or last attempt, if the Pod now specifies another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ran_image: Option<RanImage>,
}

/// An image as the status shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanImage {
    pub name: String,
    /// `imageID`
    pub id: String,
}

/// The stage of a container's life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Not started in this sandbox.
    Waiting,
    /// The container could not be created; the same attempt is repeated.
    Refused {
        reason: String,
        message: String,
        retry_at: Time,
    },
    /// The start was requested; the end has not been reported.
    Active(Active),
    Ended(Ended),
}

/// The current attempt of a container, from the start request to the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Active {
    pub attempt: u32,
    pub asked_at: Time,
    /// When the guest had finished all earlier starts, which it performs one after another.
    #[serde(default)]
    pub turn_at: Option<Time>,
    /// Set when the start is confirmed.
    pub running: Option<Running>,
    pub stop: Option<Stop>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub container_id: Option<String>,
    pub user: Option<ProcessUser>,
    pub started_at: Time,
    pub post_start: PostStart,
    /// The container's startup probe has succeeded, or the container has none.
    pub is_started: bool,
    pub is_ready: bool,
    pub probes: Probes,
}

/// The state of the postStart hook. Until the hook has returned, the container counts as waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostStart {
    Running,
    Failed(String),
    Done,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub last: Terminated,
    pub retry: Option<Retry>,
    /// Reason and message of the failed start, if the container never ran.
    pub start_error: Option<(String, String)>,
}

/// A planned restart of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub at: Time,
    /// The wait, if the back-off requires one.
    pub back_off: Option<Duration>,
    /// Whether the status shows the back-off instead of the end.
    pub is_shown: bool,
}

/// The end of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    pub exit: Exit,
    pub container_id: Option<String>,
    pub user: Option<ProcessUser>,
    pub started_at: Option<Time>,
    pub finished_at: Time,
    /// The attempt's position among the Pod's attempts, in the order in which they ended.
    pub order: u64,
}

/// A volume that shows an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ImageVolume {
    pub plan: ImageVolumePlan,
    pub image: Image,
}

/// The image of a container or a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    Unasked,
    /// The image was requested. It is being pulled if `is_fetched`.
    Wanted {
        asked_at: Time,
        is_fetched: bool,
        back_off: BackOff,
    },
    Ready {
        id: String,
    },
    Failed {
        reason: String,
        message: String,
        at: Time,
        retry_at: Time,
        /// Whether the status shows `ImagePullBackOff` instead of the failure.
        is_shown: bool,
        back_off: BackOff,
    },
}

/// The probes of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probes {
    startup: Probing,
    liveness: Probing,
    readiness: Probing,
}

/// One probe of an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probing {
    /// The earliest time of the next execution.
    pub next_at: Time,
    /// When the execution in progress was requested.
    pub asked_at: Option<Time>,
    /// The last result, and how many times in a row it occurred.
    pub last: Option<bool>,
    pub run_length: u32,
}

/// The end of the Pod, in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// The shortest requested grace period.
    pub grace: Duration,
    /// The end of the grace period.
    pub ends_at: Time,
    /// Everything is killed immediately.
    pub is_kill: bool,
    /// The event about exceeding the grace period was recorded.
    pub is_exceeded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// The end of the grace period.
    pub at: Time,
    pub grace: Duration,
}

/// The end of a container, in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub cause: Cause,
    /// If the container starts again afterwards: the change that requires it. The cause is then [`Cause::Itself`],
    /// unless the Pod ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<Changed>,
    pub grace: Duration,
    /// The end of the grace period.
    pub ends_at: Time,
    pub step: Step,
}

/// Why a container is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// The Pod ends.
    Pod,
    /// This probe failed.
    Probe(ProbeKind),
    /// The container's postStart hook failed.
    PostStart,
    /// The container ended on its own; the event that reports the end has not arrived yet.
    Itself,
}

/// The change that requires the restart of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// The container's image has changed.
    Definition,
    /// The sandbox is replaced.
    Sandbox,
}

/// The stage of a container's stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// The container is not known to run yet.
    Starting,
    /// The preStop hook is running.
    PreStop,
    /// A sidecar waits for the containers that need it.
    Turn,
    /// The stop signal was sent.
    Signalled { kill_at: Time },
    /// SIGKILL was sent.
    Killed { give_up_at: Time },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    pub stage: Stage,
    pub pod_ip: Option<String>,
    pub host_ip: Option<String>,
    pub back_off: BackOff,
    /// The sandbox is being stopped, and another one replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_replaced: bool,
}

/// The stage of the sandbox's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Absent {
        /// The earliest time to start one.
        retry_at: Time,
        /// When the previous one was lost.
        lost_at: Option<Time>,
    },
    Starting,
    Ready,
    Stopping {
        give_up_at: Time,
    },
    Gone,
}

impl Lifecycle {
    /// The state of an attempt, if it is the current one of its container.
    pub(super) fn attempt_mut(&mut self, attempt: ContainerAttempt) -> Option<&mut Active> {
        let container = self.containers.get_mut(attempt.container)?;
        container.attempt_mut(attempt.number)
    }
}

impl ImageVolume {
    pub fn new(plan: ImageVolumePlan) -> Self {
        Self {
            plan,
            image: Image::Unasked,
        }
    }
}

impl Container {
    pub fn new(plan: ContainerPlan) -> Self {
        Self {
            plan,
            image: Image::Unasked,
            state: State::Waiting,
            last: None,
            next_attempt: 0,
            restart_count: 0,
            back_off: BackOff::default(),
            is_initialized: false,
            needs_sandbox: false,
            ran_image: None,
        }
    }

    pub fn active(&self) -> Option<&Active> {
        match &self.state {
            State::Active(active) => Some(active),
            _ => None,
        }
    }

    pub fn active_mut(&mut self) -> Option<&mut Active> {
        match &mut self.state {
            State::Active(active) => Some(active),
            _ => None,
        }
    }

    /// The attempt with this number, if it is the current one.
    pub fn attempt_mut(&mut self, number: u32) -> Option<&mut Active> {
        self.active_mut().filter(|active| active.attempt == number)
    }

    /// The user of the current or last attempt.
    pub fn user(&self) -> Option<&ProcessUser> {
        let running = self.active().and_then(|active| active.running.as_ref());
        let ended = match &self.state {
            State::Ended(ended) => Some(&ended.last),
            _ => self.last.as_ref(),
        };
        match running {
            Some(running) => running.user.as_ref(),
            None => ended?.user.as_ref(),
        }
    }

    pub fn is_active(&self) -> bool {
        self.active().is_some()
    }

    /// Whether other containers wait for this one's postStart hook, which runs or will run. A container that is being
    /// stopped does not delay others.
    pub fn holds_up_others(&self) -> bool {
        self.plan.post_start
            && self.active().is_some_and(|active| {
                let running = active.running.as_ref();
                active.stop.is_none() && running.is_none_or(|running| running.post_start == PostStart::Running)
            })
    }

    /// Whether the container will not start again in this sandbox.
    pub fn has_ended_in_sandbox(&self) -> bool {
        let is_done_init = self.is_initialized && !self.plan.is_sidecar();
        is_done_init || matches!(&self.state, State::Ended(ended) if ended.retry.is_none())
    }

    /// Whether the container was ever started.
    pub fn has_run(&self) -> bool {
        self.is_active() || self.last.is_some() || matches!(self.state, State::Ended(_))
    }
}

impl Active {
    /// This attempt, as an attempt of the container with this number.
    pub fn attempt_of(&self, container: usize) -> ContainerAttempt {
        ContainerAttempt::new(container, self.attempt)
    }

    /// Whether the start was neither answered nor abandoned.
    pub fn is_starting(&self) -> bool {
        let is_given_up = matches!(&self.stop, Some(stop) if matches!(stop.step, Step::Killed { .. }));
        self.running.is_none() && !is_given_up
    }

    /// Whether the container runs and its postStart hook has returned.
    pub fn is_up(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.post_start == PostStart::Done)
    }

    /// The running hook, if any.
    pub fn hook(&self) -> Option<Hook> {
        if matches!(&self.stop, Some(stop) if stop.step == Step::PreStop) {
            Some(Hook::PreStop)
        } else if matches!(&self.running, Some(running) if running.post_start == PostStart::Running) {
            Some(Hook::PostStart)
        } else {
            None
        }
    }
}

impl Probes {
    pub fn of(&self, kind: ProbeKind) -> &Probing {
        match kind {
            ProbeKind::Startup => &self.startup,
            ProbeKind::Liveness => &self.liveness,
            ProbeKind::Readiness => &self.readiness,
        }
    }

    pub fn of_mut(&mut self, kind: ProbeKind) -> &mut Probing {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Liveness => &mut self.liveness,
            ProbeKind::Readiness => &mut self.readiness,
        }
    }

    /// Discards executions in progress.
    pub fn forget_asked(&mut self, now: Time) {
        for kind in ProbeKind::ALL {
            let probing = self.of_mut(kind);
            probing.asked_at = None;
            // The clock may have been set back.
            probing.next_at = probing.next_at.min(now);
        }
    }
}

impl Default for SandboxState {
    fn default() -> Self {
        Self {
            stage: Stage::Absent {
                retry_at: Time::ZERO,
                lost_at: None,
            },
            pod_ip: None,
            host_ip: None,
            back_off: BackOff::default(),
            is_replaced: false,
        }
    }
}

impl SandboxState {
    pub fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub fn is_gone(&self) -> bool {
        self.stage == Stage::Gone
    }
}
