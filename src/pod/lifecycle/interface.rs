//! The input and output of the lifecycle.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in time since the Unix epoch. The time does not go backwards while a supervisor runs.
pub type Time = Duration;

/// A time in Kubernetes' format, in whole seconds.
pub fn timestamp(time: Time) -> Option<v1::Time> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    Timestamp::from_second(seconds).ok().map(v1::Time)
}

/// Longest message that is kept, in bytes, from a container (`MaxContainerTerminationMessageLength` of the kubelet) or
/// another source: whatever guests and registries send, a Pod's records must stay small enough to be read again.
const MAX_MESSAGE_BYTES: usize = 4096;

/// The kubelet's reason and message for containers that are removed because all containers restart.
pub(super) const RESTARTING_ALL: &str = "RestartingAllContainers";
pub(super) const RESTARTING_ALL_MESSAGE: &str = "The container is removed because RestartAllContainers in place";

/// One start of a container, and the run that follows. As in CRI, the attempt number is how many times the container
/// was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerAttempt {
    /// Number of the container: init containers in order, then the others.
    pub container: usize,
    /// Number of the attempt, from 0.
    pub number: u32,
}

impl ContainerAttempt {
    #[must_use]
    pub fn new(container: usize, number: u32) -> Self {
        Self { container, number }
    }
}

/// What an image is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ImageUse {
    /// The container with this number.
    Container(usize),
    /// The volume with this number among those that show images.
    Volume(usize),
}

impl ImageUse {
    /// The container that events about the image concern.
    #[must_use]
    pub fn container(self) -> Option<usize> {
        match self {
            Self::Container(container) => Some(container),
            Self::Volume(_) => None,
        }
    }
}

/// An attempt that a supervisor finds in the sandbox when it takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundAttempt {
    pub attempt: ContainerAttempt,
    /// The attempt has ended; [`Event::ContainerExited`] follows.
    pub has_ended: bool,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code as a shell reports it: 128 + n for signal n, and 128 for a container that could not be started.
    pub code: u8,
    /// The signal that ended it, if one did.
    pub signal: Option<u8>,
    /// The reason in the container's status: `Completed`, `Error`, `OOMKilled`, `StartError`,
    /// `RestartingAllContainers` or `ContainerStatusUnknown`.
    pub reason: String,
    /// The termination message, or details about the end.
    pub message: Option<String>,
}

impl Exit {
    /// The end of a process; `signal` is 0 if no signal ended it. The reason is `OOMKilled` only if SIGKILL ended the
    /// process itself, or a child whose exit code it passed on.
    #[must_use]
    pub fn of_process(exit_code: u8, signal: u8, oom_killed: bool) -> Self {
        let code = if signal > 0 {
            128_u8.saturating_add(signal)
        } else {
            exit_code
        };
        let reason = match (oom_killed, code) {
            (true, 137) => "OOMKilled",
            (_, 0) => "Completed",
            (_, _) => "Error",
        };
        Self {
            code,
            signal: (signal > 0).then_some(signal),
            reason: reason.to_owned(),
            message: None,
        }
    }

    /// Adds a termination message.
    #[must_use]
    pub fn with_message(mut self, message: String) -> Self {
        self.message = (!message.is_empty()).then_some(message);
        self
    }

    /// The end of a container that never ran (containerd reports exit code 128).
    #[must_use]
    pub fn start_error(message: String) -> Self {
        Self {
            code: 128,
            signal: None,
            reason: "StartError".to_owned(),
            message: Some(message),
        }
    }

    /// The end of a container that was killed because all containers restart.
    #[must_use]
    pub fn restarted_with_all() -> Self {
        Self {
            code: 137,
            signal: None,
            reason: RESTARTING_ALL.to_owned(),
            message: Some(RESTARTING_ALL_MESSAGE.to_owned()),
        }
    }

    /// The end of a container that ran and has disappeared.
    #[must_use]
    pub fn lost() -> Self {
        Self {
            code: 137,
            signal: None,
            reason: "ContainerStatusUnknown".to_owned(),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
        }
    }
}

/// User and groups of a container's first process when it started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// Supplementary groups, including the primary one.
    pub supplemental_gids: Vec<u32>,
}

/// Shortens a text to at most `max_bytes`.
pub(super) fn cut(text: &mut String, max_bytes: usize) {
    text.truncate(text.floor_char_boundary(max_bytes));
}

/// A hook of a container's `lifecycle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Hook {
    /// Runs as soon as the container has started. The container counts as waiting until the hook has returned.
    PostStart,
    /// Runs before the container gets its stop signal.
    PreStop,
}

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Whether the container has started; the other probes wait for it.
    Startup,
    /// Whether the container still works; if not, it is restarted.
    Liveness,
    /// Whether the container is ready to serve.
    Readiness,
}

impl ProbeKind {
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];
}

/// The result of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    Success,
    /// The hook failed, with this reason.
    Failure(String),
}

/// The result of one execution of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    Success,
    /// The probe succeeded with a warning (about a redirect to another host, for example).
    Warning(String),
    /// The probe failed, with this output.
    Failure(String),
    /// The probe could not be executed, which says nothing about the container.
    Unknown(String),
}

/// The parts of a Pod that may change while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodChange {
    pub(super) generation: Option<i64>,
    pub(super) grace: Duration,
    pub(super) active_deadline: Option<Duration>,
    pub(super) scheduling_gates: Vec<String>,
    /// By container number.
    pub(super) images: Vec<String>,
}

/// Why the scheduler has not placed a Pod (`pkg/scheduler/schedule_one.go`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotPlaced {
    /// Whether the attempt itself failed, instead of finding no place.
    pub is_error: bool,
    pub message: String,
}

/// An event. Events that do not fit the state are ignored, such as those of earlier attempts or of unknown containers.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The Pod's life starts.
    Begin,
    /// Instead of [`Self::Begin`]: this node rejects the Pod, which fails.
    Rejected {
        /// The kubelet's reason.
        reason: &'static str,
        message: String,
    },
    /// Instead of [`Self::Begin`]: this node ignores the Pod, because it does not allow a part of it. The Pod waits; a
    /// later [`Self::Begin`] starts it.
    Invalid {
        /// The parts of the Pod that the node does not allow.
        message: String,
    },
    /// Instead of [`Self::Begin`]: the Pod's claims have no volumes yet, so it is on no node. The Pod waits; a later
    /// [`Self::Begin`] starts it.
    Unplaced {
        /// `None` if it is not known yet. The last reason then stays.
        why: Option<NotPlaced>,
    },
    /// The supervisor was restarted, and there is no sandbox to take over. The Pod's life continues, or starts if it
    /// had not: unfinished pulls are requested again, and so is a sandbox if it is still needed.
    SupervisorRestartedAlone {
        /// How the sandbox was lost, if there was one.
        message: String,
    },
    /// An image is being pulled: it is not on this host, or its policy forbids using the local copy.
    ImagePullStarted {
        /// Which image.
        of: ImageUse,
    },
    /// Answers [`Action::PullImage`].
    ImageReady {
        /// Which image.
        of: ImageUse,
        /// `imageID` of the container's status.
        image_id: String,
    },
    /// Answers [`Action::PullImage`].
    ImageFailed {
        /// Which image.
        of: ImageUse,
        /// The kubelet's reason: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`,
        /// `RegistryUnavailable`.
        reason: String,
        /// Why.
        message: String,
    },
    /// Answers [`Action::StartSandbox`].
    SandboxReady {
        /// IP address of the Pod.
        pod_ip: String,
        /// IP address of the host as the Pod sees it.
        host_ip: String,
    },
    /// Answers [`Action::StartSandbox`].
    SandboxFailed {
        /// Why.
        message: String,
    },
    /// The sandbox is gone: on its own, or after [`Action::StopSandbox`], which this answers.
    SandboxLost {
        /// How.
        message: String,
    },
    /// Answers [`Action::StartContainer`].
    ContainerStarted {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// `containerID` of the container's status.
        container_id: String,
        /// The user it runs as, if known.
        user: Option<ProcessUser>,
    },
    /// Answers [`Action::StartContainer`]. With `CreateContainerConfigError` or `CreateContainerError` the container
    /// was never created, and the same attempt is repeated. Any other reason (`RunContainerError`) ends the attempt
    /// with exit code 128.
    ContainerStartFailed {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// The kubelet's reason.
        reason: String,
        /// Details.
        message: String,
    },
    /// Answers [`Action::StartContainer`]: objects that the container takes variables from are missing or unusable. The
    /// container was not created, and the same attempt is repeated.
    ContainerConfigUnavailable {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// The kubelet's message.
        message: String,
    },
    /// Answers [`Action::StartContainer`]: the container's image cannot be added to the sandbox. The container was not
    /// created. Another sandbox replaces this one, unless the container is ephemeral.
    ImageNotAdded {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Why.
        message: String,
    },
    /// Objects that the Pod refers to have changed: the creation of containers that failed is retried.
    ObjectsChanged,
    /// The container has ended, and all its output was received.
    ContainerExited {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// How it ended.
        exit: Exit,
    },
    /// Answers [`Action::RunHook`].
    HookEnded {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which hook.
        hook: Hook,
        outcome: HookOutcome,
    },
    /// Answers [`Action::RunProbe`].
    ProbeEnded {
        /// Which attempt.
        attempt: ContainerAttempt,
        probe: ProbeKind,
        outcome: ProbeOutcome,
    },
    /// The Pod must end.
    TerminateRequested {
        /// The requested grace period; `None` for the Pod's own. Later requests can only shorten it.
        grace: Option<Duration>,
        /// Whether the Pod is being deleted, and its metadata shows that.
        deletion: bool,
    },
    /// The Pod must end immediately.
    KillRequested,
    /// The supervisor was restarted, and the sandbox still exists. A container that is not found in it was lost or
    /// never started. Only valid if [`Lifecycle::has_sandbox`](super::Lifecycle::has_sandbox).
    SupervisorRestarted {
        /// The attempts in the sandbox.
        found: Vec<FoundAttempt>,
        /// Attempts that the guest is still starting for the previous supervisor; [`Event::ContainerStarted`] or
        /// [`Event::ContainerStartFailed`] follows.
        starting: Vec<ContainerAttempt>,
    },
    /// The Pod uses more local storage than its limits allow: it fails, and ends within a second.
    Evicted {
        /// The kubelet's message.
        message: String,
    },
    /// The Pod was changed.
    PodChanged { change: PodChange },
    /// Clients have set conditions; these replace all earlier ones.
    ConditionsSet { conditions: Vec<PodCondition> },
    /// The time returned by [`Lifecycle::deadline`](super::Lifecycle::deadline) has been reached.
    DeadlineReached,
}

/// The kubelet's reason for a container whose configuration cannot be used, or not yet.
pub(super) const CONFIG_ERROR: &str = "CreateContainerConfigError";

/// The kubelet's reason for a container that the runtime cannot create.
pub(super) const CREATE_ERROR: &str = "CreateContainerError";

/// Whether this reason means that a container could not be created, so the same attempt is repeated.
pub fn is_create_error(reason: &str) -> bool {
    reason.starts_with("Create")
}

impl Event {
    /// Cuts all texts of the event to their limits.
    pub(super) fn bounded(mut self) -> Self {
        match &mut self {
            Self::SupervisorRestartedAlone { message }
            | Self::SandboxFailed { message }
            | Self::Rejected { message, .. }
            | Self::Invalid { message }
            | Self::Unplaced {
                why: Some(NotPlaced { message, .. }),
            }
            | Self::Evicted { message }
            | Self::SandboxLost { message }
            | Self::ImageReady { image_id: message, .. }
            | Self::ContainerConfigUnavailable { message, .. }
            | Self::ImageNotAdded { message, .. }
            | Self::HookEnded {
                outcome: HookOutcome::Failure(message),
                ..
            }
            | Self::ProbeEnded {
                outcome:
                    ProbeOutcome::Warning(message) | ProbeOutcome::Failure(message) | ProbeOutcome::Unknown(message),
                ..
            } => cut(message, MAX_MESSAGE_BYTES),
            Self::ImageFailed { reason, message, .. } | Self::ContainerStartFailed { reason, message, .. } => {
                cut(reason, MAX_MESSAGE_BYTES);
                cut(message, MAX_MESSAGE_BYTES);
            }
            Self::SandboxReady { pod_ip, host_ip } => {
                cut(pod_ip, MAX_MESSAGE_BYTES);
                cut(host_ip, MAX_MESSAGE_BYTES);
            }
            Self::ContainerStarted { container_id, .. } => cut(container_id, MAX_MESSAGE_BYTES),
            Self::ContainerExited { exit, .. } => {
                cut(&mut exit.reason, MAX_MESSAGE_BYTES);
                if let Some(message) = &mut exit.message {
                    cut(message, MAX_MESSAGE_BYTES);
                }
            }
            Self::HookEnded {
                outcome: HookOutcome::Success,
                ..
            }
            | Self::ProbeEnded {
                outcome: ProbeOutcome::Success,
                ..
            }
            | Self::Begin
            | Self::Unplaced { why: None }
            | Self::ImagePullStarted { .. }
            | Self::ObjectsChanged
            | Self::TerminateRequested { .. }
            | Self::KillRequested
            | Self::SupervisorRestarted { .. }
            | Self::PodChanged { .. }
            | Self::ConditionsSet { .. }
            | Self::DeadlineReached => {}
        }
        self
    }
}

/// A request to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Pull an image, or find it on this host. The supervisor must answer, however late.
    PullImage {
        /// Which image.
        of: ImageUse,
    },
    /// Start the virtual machine. The supervisor must answer eventually.
    StartSandbox,
    /// Start the container. If its image is not in the sandbox, add it first.
    StartContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    RunHook {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which hook.
        hook: Hook,
        /// How long it may take.
        timeout: Option<Duration>,
    },
    /// Cancel a hook: its result is no longer needed.
    CancelHook {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which hook.
        hook: Hook,
    },
    /// Execute a probe once, within its own timeout.
    RunProbe {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which probe.
        probe: ProbeKind,
    },
    /// Send the stop signal to the container's PID 1.
    StopContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    /// Send SIGKILL to the container's PID 1.
    KillContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    /// Power the virtual machine off and answer with [`Event::SandboxLost`]. No start follows in this sandbox.
    StopSandbox,
    /// Record an event of the Pod.
    Emit(PodEvent),
}

/// An event of the Pod, as `kubectl describe` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// Whether its type is `Warning` instead of `Normal`.
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// Number of the container that the event concerns, if any.
    pub container: Option<usize>,
}
