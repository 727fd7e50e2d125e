//! What goes into the lifecycle and what comes out of it.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A point in time, measured from the Unix epoch. It does not go back while a supervisor runs.
pub type Time = Duration;

/// A time as Kubernetes writes it: in whole seconds.
pub fn timestamp(time: Time) -> Option<v1::Time> {
    let seconds = i64::try_from(time.as_secs()).ok()?;
    Timestamp::from_second(seconds).ok().map(v1::Time)
}

/// Longest message that is kept, from a container (`MaxContainerTerminationMessageLength` of the kubelet) or anywhere else: a Pod's records must
/// stay small enough to be read again, whatever guests and registries send.
const MAX_MESSAGE_BYTES: usize = 4096;

/// One start of a container and what runs from then on: the container and, as in CRI, how often it was started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerAttempt {
    /// Number of the container: init containers in order, then the others.
    pub container: usize,
    /// Number of the attempt, from 0.
    pub number: u32,
}

impl ContainerAttempt {
    /// The attempt `number` of the container `container`.
    #[must_use]
    pub fn new(container: usize, number: u32) -> Self {
        Self { container, number }
    }
}

/// An attempt that is in the sandbox when a supervisor takes it over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundAttempt {
    /// Which attempt.
    pub attempt: ContainerAttempt,
    /// [`Event::ContainerExited`] follows.
    pub has_ended: bool,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit code as a shell would give it: 128 + n for signal n, 128 for a container that could not be started.
    pub code: u8,
    /// The signal that ended it, if one did.
    pub signal: Option<u8>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError` or `ContainerStatusUnknown`, as the container's status shows it.
    pub reason: String,
    /// Its termination message, or more about its end.
    pub message: Option<String>,
}

impl Exit {
    /// The end of a process that was started; `signal` is 0 if no signal ended it. `OOMKilled` is only said of an end by SIGKILL, of the process
    /// itself or of a child whose exit code it passed on.
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

    /// The same end with a termination message.
    #[must_use]
    pub fn with_message(mut self, message: String) -> Self {
        self.message = (!message.is_empty()).then_some(message);
        self
    }

    /// A container that never ran (containerd reports these with exit code 128).
    #[must_use]
    pub fn start_error(message: String) -> Self {
        Self {
            code: 128,
            signal: None,
            reason: "StartError".to_owned(),
            message: Some(message),
        }
    }

    /// A container that ran and is gone.
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

/// User and groups of a container's first process, as it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
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
    /// Runs as soon as the container has started; the container counts as waiting until the hook has returned.
    PostStart,
    /// Runs before the container gets its stop signal.
    PreStop,
}

/// The three kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ProbeKind {
    /// Whether the container has started; the others wait for it.
    Startup,
    /// Whether it still works; it is restarted if not.
    Liveness,
    /// Whether it can do its work.
    Readiness,
}

impl ProbeKind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Startup, Self::Liveness, Self::Readiness];
}

/// How a hook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HookOutcome {
    /// It succeeded.
    Success,
    /// It failed, for this reason.
    Failure(String),
}

/// How one execution of a probe ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// It succeeded.
    Success,
    /// It succeeded with a warning (about a redirect to another host, for example).
    Warning(String),
    /// It failed, with its output.
    Failure(String),
    /// It could not be made; says nothing about the container.
    Unknown(String),
}

/// What happened. Events that do not fit the state are ignored: those of attempts that are over or of containers that do not exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The Pod's life begins.
    Begin,
    /// The supervisor was restarted and there is no sandbox that it could take over. The Pod's life goes on, or begins if it had not: pulls that
    /// were under way are asked for again, and so is a sandbox if it is still needed.
    SupervisorRestartedAlone {
        /// How the sandbox was lost, if there had been one.
        message: String,
    },
    /// The container's image is not on this host (or must not be used from there) and is being fetched.
    ImagePullStarted {
        /// Number of the container.
        container: usize,
    },
    /// Answers [`Action::PullImage`].
    ImageReady {
        /// Number of the container.
        container: usize,
        /// `imageID` of its status.
        image_id: String,
    },
    /// Answers [`Action::PullImage`].
    ImageFailed {
        /// Number of the container.
        container: usize,
        /// The kubelet's: `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName`, `ImageInspectError`, `RegistryUnavailable`.
        reason: String,
        /// Why.
        message: String,
    },
    /// Answers [`Action::StartSandbox`].
    SandboxReady {
        /// Address of the Pod.
        pod_ip: String,
        /// Address of the host as the Pod sees it.
        host_ip: String,
    },
    /// Answers [`Action::StartSandbox`].
    SandboxFailed {
        /// Why.
        message: String,
    },
    /// The sandbox is gone: by itself, or because of [`Action::StopSandbox`], which this answers.
    SandboxLost {
        /// How.
        message: String,
    },
    /// Answers [`Action::StartContainer`].
    ContainerStarted {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// `containerID` of its status.
        container_id: String,
        /// The user it runs as, where that is known.
        user: Option<ProcessUser>,
    },
    /// Answers [`Action::StartContainer`]. With `CreateContainerConfigError` or `CreateContainerError` there never was a container: the same
    /// attempt will be made again. Any other reason (`RunContainerError`) ends the attempt with exit code 128.
    ContainerStartFailed {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// The kubelet's.
        reason: String,
        /// Why.
        message: String,
    },
    /// The container ended and all its output has been received.
    ContainerExited {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// How.
        exit: Exit,
    },
    /// Answers [`Action::RunHook`].
    HookEnded {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which hook.
        hook: Hook,
        /// What came of it.
        outcome: HookOutcome,
    },
    /// Answers [`Action::RunProbe`].
    ProbeEnded {
        /// Which attempt.
        attempt: ContainerAttempt,
        /// Which probe.
        probe: ProbeKind,
        /// What it found.
        outcome: ProbeOutcome,
    },
    /// The Pod has to end.
    TerminateRequested {
        /// `None`: its own grace period. Later requests can only shorten it.
        grace: Option<Duration>,
        /// Whether the Pod is being deleted, and shows it.
        deletion: bool,
    },
    /// The Pod has to end at once.
    KillRequested,
    /// The supervisor was started again and the sandbox is still there. A container of which nothing is found in it was lost or never
    /// started. Only where [`Lifecycle::has_sandbox`](super::Lifecycle::has_sandbox).
    SupervisorRestarted {
        /// What is in the sandbox.
        found: Vec<FoundAttempt>,
        /// Attempts that the guest still starts for the supervisor before; [`Event::ContainerStarted`] or [`Event::ContainerStartFailed`]
        /// follows.
        starting: Vec<ContainerAttempt>,
    },
    /// The time returned by [`Lifecycle::deadline`](super::Lifecycle::deadline) has come.
    DeadlineReached,
}

/// Whether this is the reason of a container that could not even be created: the same attempt is made again.
pub fn is_create_error(reason: &str) -> bool {
    reason.starts_with("Create")
}

impl Event {
    /// The event with all texts cut to what may be kept.
    pub(super) fn bounded(mut self) -> Self {
        match &mut self {
            Self::SupervisorRestartedAlone { message }
            | Self::SandboxFailed { message }
            | Self::SandboxLost { message }
            | Self::ImageReady { image_id: message, .. }
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
            | Self::ImagePullStarted { .. }
            | Self::TerminateRequested { .. }
            | Self::KillRequested
            | Self::SupervisorRestarted { .. }
            | Self::DeadlineReached => {}
        }
        self
    }
}

/// What the supervisor has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch the container's image, or find it on this host. It must be answered, however late.
    PullImage {
        /// Number of the container.
        container: usize,
    },
    /// Start the virtual machine. Has to be answered in the end.
    StartSandbox,
    /// Start a container.
    StartContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    /// Run a hook.
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
    /// Send its stop signal to the container's PID 1.
    StopContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    /// Send SIGKILL to the container's PID 1.
    KillContainer {
        /// Which attempt.
        attempt: ContainerAttempt,
    },
    /// Turn the virtual machine off and answer with [`Event::SandboxLost`]. Nothing is started any more.
    StopSandbox,
    /// Record an event of the Pod.
    Emit(PodEvent),
}

/// An event of the Pod, as `kubectl describe` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// Its type: `Warning`, else `Normal`.
    pub warning: bool,
    /// Its reason.
    pub reason: &'static str,
    /// Its message.
    pub message: String,
    /// Number of the container it is about.
    pub container: Option<usize>,
}
