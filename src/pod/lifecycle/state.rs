//! The state of a Pod's life, and what can be read from it without applying a rule: containers with their images, probes and ends, the sandbox,
//! the termination. All of it is saved after every step: names and fields are a format on disk.
//!
//! The modules named after the concerns decide when it changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::interface::{ContainerAttempt, Exit, Hook, ProbeKind, ProcessUser, Time};
use super::plan::{ContainerPlan, PodPlan};
use super::restart::BackOff;
use super::transitions::Conditions;

/// The whole state of a Pod's life. It is saved after every step, so that another process can continue it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lifecycle {
    pub(super) plan: PodPlan,
    /// Init containers in order, then the others.
    pub(super) containers: Vec<Container>,
    pub(super) began_at: Option<Time>,
    pub(super) sandbox: SandboxState,
    pub(super) termination: Option<Termination>,
    pub(super) deletion: Option<Deletion>,
    /// The Pod was active for longer than its `activeDeadlineSeconds`.
    pub(super) deadline_exceeded: bool,
    pub(super) phase: Phase,
    pub(super) conditions: Conditions,
    /// How many containers have ended so far: tells which one failed first.
    pub(super) ends: u64,
}

/// `status.phase`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers have been started yet.
    Pending,
    /// At least one runs, or will again.
    Running,
    /// All have ended well, for good.
    Succeeded,
    /// All have ended for good, one of them badly.
    Failed,
}

impl Phase {
    /// As the status shows it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }

    /// Whether the Pod stays in it for good.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// A container over all its attempts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Container {
    pub plan: ContainerPlan,
    pub image: Image,
    pub state: State,
    /// How the attempt before the present state ended.
    pub last: Option<Terminated>,
    pub next_attempt: u32,
    pub restart_count: u32,
    pub back_off: BackOff,
    /// In this sandbox, the init container after it may start: it succeeded, or, as a sidecar, was started once.
    pub is_initialized: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum State {
    /// Not started since the sandbox is there.
    Waiting,
    /// It could not be created; the same attempt is made again.
    Refused {
        reason: String,
        message: String,
        retry_at: Time,
    },
    /// From the request to start it to its end.
    Active(Active),
    /// Ended.
    Ended(Ended),
}

/// A container that is asked for or runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Active {
    /// Number of the attempt.
    pub attempt: u32,
    pub asked_at: Time,
    /// When the starts that were asked for before were over: the guest makes them one after the other.
    #[serde(default)]
    pub turn_at: Option<Time>,
    /// Since its start was confirmed.
    pub running: Option<Running>,
    pub stop: Option<Stop>,
}

/// A container whose process runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Running {
    pub container_id: Option<String>,
    pub user: Option<ProcessUser>,
    pub started_at: Time,
    pub post_start: PostStart,
    /// Its startup probe, if it has one, succeeded.
    pub is_started: bool,
    pub is_ready: bool,
    pub probes: Probes,
}

/// Until the postStart hook has returned, the container counts as waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PostStart {
    Running,
    Failed(String),
    Done,
}

/// A container that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub last: Terminated,
    pub retry: Option<Retry>,
    /// Why it could not be started, if that was how it ended: reason and message.
    pub start_error: Option<(String, String)>,
}

/// A container that is to be started again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    pub at: Time,
    /// The wait, if the back-off demands one.
    pub back_off: Option<Duration>,
    /// Whether the back-off is shown in place of the end.
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
    /// Its place among all ends of the Pod.
    pub order: u64,
}

/// An image of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Image {
    Unasked,
    /// Asked for. It is being fetched if its event has been recorded.
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
        /// Whether `ImagePullBackOff` is shown in place of the failure.
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

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Probing {
    /// The earliest time of the next execution.
    pub next_at: Time,
    /// Since when one is under way.
    pub asked_at: Option<Time>,
    /// The last result, and how many times in a row it came.
    pub last: Option<bool>,
    pub run_length: u32,
}

/// The end of the Pod, under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Termination {
    /// The shortest grace period that was asked for.
    pub grace: Duration,
    /// When it is over.
    pub ends_at: Time,
    /// Everything is killed at once.
    pub is_kill: bool,
    /// The event that it was exceeded has been recorded.
    pub is_exceeded: bool,
}

/// The Pod's deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deletion {
    /// When its grace period ends.
    pub at: Time,
    pub grace: Duration,
}

/// The end of a container, under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    pub cause: Cause,
    pub grace: Duration,
    /// When the grace period is over.
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
    /// Its postStart hook failed.
    PostStart,
    /// It ended by itself; the event that says so is still to come.
    Itself,
}

/// How far the end of a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// It was not yet known to run.
    Starting,
    /// Its preStop hook runs.
    PreStop,
    /// A sidecar waits for those that need it.
    Turn,
    /// The stop signal is out.
    Signalled { kill_at: Time },
    /// So is SIGKILL.
    Killed { give_up_at: Time },
}

/// The sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    pub stage: Stage,
    pub pod_ip: Option<String>,
    pub host_ip: Option<String>,
    pub back_off: BackOff,
}

/// Where it is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    Absent {
        /// The earliest time to start one.
        retry_at: Time,
        /// When the one before was lost.
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
    /// The state of an attempt, if it is the present one of its container.
    pub(super) fn attempt_mut(&mut self, attempt: ContainerAttempt) -> Option<&mut Active> {
        let container = self.containers.get_mut(attempt.container)?;
        container.attempt_mut(attempt.number)
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

    /// The attempt with this number if it is the present one.
    pub fn attempt_mut(&mut self, number: u32) -> Option<&mut Active> {
        self.active_mut().filter(|active| active.attempt == number)
    }

    /// The user its present attempt runs as, or its last one ran as.
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

    /// Whether other containers wait for its postStart hook, which runs or will. A container that is being stopped holds up no other.
    pub fn holds_up_others(&self) -> bool {
        self.plan.post_start
            && self.active().is_some_and(|active| {
                let running = active.running.as_ref();
                active.stop.is_none() && running.is_none_or(|running| running.post_start == PostStart::Running)
            })
    }

    /// Whether it was ever started.
    pub fn has_run(&self) -> bool {
        self.is_active() || self.last.is_some() || matches!(self.state, State::Ended(_))
    }
}

impl Active {
    /// Which attempt this is, in the container with this number.
    pub fn attempt_of(&self, container: usize) -> ContainerAttempt {
        ContainerAttempt::new(container, self.attempt)
    }

    /// Whether its start is neither answered nor given up.
    pub fn is_starting(&self) -> bool {
        let is_given_up = matches!(&self.stop, Some(stop) if matches!(stop.step, Step::Killed { .. }));
        self.running.is_none() && !is_given_up
    }

    /// Whether it runs and its postStart hook has returned.
    pub fn is_up(&self) -> bool {
        self.running
            .as_ref()
            .is_some_and(|running| running.post_start == PostStart::Done)
    }

    /// The hook that is running.
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

    /// Forgets the executions that were under way.
    pub fn forget_asked(&mut self, now: Time) {
        for kind in ProbeKind::ALL {
            let probing = self.of_mut(kind);
            probing.asked_at = None;
            // The clock may have been set back meanwhile.
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
