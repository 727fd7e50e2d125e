//! The parts of a manifest that the lifecycle needs.

use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Container, ContainerRestartRule, EphemeralContainer, Pod, Probe, ResourceRequirements, VolumeMount,
    VolumeMountStatus,
};
use microkube_manifest::ephemeral::as_container;
use microkube_manifest::resources::qos_class;
use serde::{Deserialize, Serialize};

use super::interface::ProbeKind;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPlan {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `terminationGracePeriodSeconds`.
    pub grace: Duration,
    pub restart_policy: RestartPolicy,
    pub active_deadline: Option<Duration>,
    pub readiness_gates: Vec<String>,
    pub qos_class: String,
    /// `metadata.generation` without the deletion; `None` for Pods from builds that did not set it.
    #[serde(default)]
    pub generation: Option<i64>,
    /// The Pod starts only when all scheduling gates are removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scheduling_gates: Vec<String>,
}

/// The role of a container in its Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Runs once, before the next init container.
    Init,
    /// An init container that keeps running alongside the others.
    Sidecar,
    /// A container in `containers`.
    Main,
    /// Added to the running Pod, for debugging: never restarted, and without effect on the Pod's phase and conditions.
    Ephemeral,
}

/// `restartPolicy` of a Pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    Always,
    OnFailure,
    Never,
}

impl RestartPolicy {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    pub fn restarts(self, exit_code: u8) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => exit_code != 0,
            Self::Never => false,
        }
    }
}

/// A rule in a container's `restartPolicyRules`. The first rule that matches an exit code counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartRule {
    /// The action is `RestartAllContainers` instead of `Restart`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarts_all: bool,
    /// The operator is `NotIn` instead of `In`.
    negated: bool,
    exit_codes: Vec<i32>,
}

impl RestartRule {
    pub fn of(rule: &ContainerRestartRule) -> Option<Self> {
        let exit_codes = rule.exit_codes.as_ref()?;
        let restarts_all = match rule.action.as_str() {
            "Restart" => false,
            "RestartAllContainers" => true,
            _ => return None,
        };
        let negated = match exit_codes.operator.as_str() {
            "In" => false,
            "NotIn" => true,
            _ => return None,
        };
        Some(Self {
            restarts_all,
            negated,
            exit_codes: exit_codes.values.clone().unwrap_or_default(),
        })
    }

    fn matches(&self, exit_code: u8) -> bool {
        self.exit_codes.contains(&i32::from(exit_code)) != self.negated
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub name: String,
    pub image: String,
    pub role: Role,
    /// `imagePullPolicy: Always`.
    pub always_pull: bool,
    /// The container's own policy, which overrides the Pod's.
    pub restart_policy: Option<RestartPolicy>,
    pub restart_rules: Vec<RestartRule>,
    pub post_start: bool,
    pub pre_stop: bool,
    /// The requested resources, which are always granted.
    #[serde(default)]
    pub resources: ResourceRequirements,
    #[serde(default)]
    pub volume_mounts: Vec<VolumeMountStatus>,
    startup: Option<ProbePlan>,
    liveness: Option<ProbePlan>,
    readiness: Option<ProbePlan>,
}

/// A volume that shows an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageVolumePlan {
    pub name: String,
    pub image: String,
    /// `pullPolicy: Always`.
    pub always_pull: bool,
}

/// When a probe is executed, and the thresholds for its results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbePlan {
    pub initial_delay: Duration,
    pub period: Duration,
    pub timeout: Duration,
    pub success_threshold: u32,
    pub failure_threshold: u32,
    /// The probe's own `terminationGracePeriodSeconds`.
    pub grace: Option<Duration>,
}

impl PodPlan {
    /// Creates the plan of a defaulted and validated Pod.
    pub fn of(pod: &Pod) -> Self {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let spec = pod.spec.as_ref();
        Self {
            namespace: text(&pod.metadata.namespace),
            name: text(&pod.metadata.name),
            uid: text(&pod.metadata.uid),
            grace: seconds(
                spec.and_then(|spec| spec.termination_grace_period_seconds)
                    .unwrap_or(30),
            ),
            restart_policy: spec
                .and_then(|spec| spec.restart_policy.as_deref())
                .and_then(RestartPolicy::parse)
                .unwrap_or(RestartPolicy::Always),
            active_deadline: spec.and_then(|spec| spec.active_deadline_seconds).map(seconds),
            readiness_gates: spec
                .and_then(|spec| spec.readiness_gates.as_ref())
                .into_iter()
                .flatten()
                .map(|gate| gate.condition_type.clone())
                .collect(),
            qos_class: qos_class(pod).as_str().to_owned(),
            generation: pod.metadata.generation,
            scheduling_gates: spec
                .and_then(|spec| spec.scheduling_gates.as_ref())
                .into_iter()
                .flatten()
                .map(|gate| gate.name.clone())
                .collect(),
        }
    }
}

/// The containers of a Pod in the order of their numbers.
pub fn containers(pod: &Pod) -> impl Iterator<Item = ContainerPlan> {
    let spec = pod.spec.as_ref();
    let init = spec
        .and_then(|spec| spec.init_containers.as_ref())
        .into_iter()
        .flatten();
    let main = spec.map(|spec| spec.containers.as_slice()).into_iter().flatten();
    let ephemeral = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
    init.map(|container| ContainerPlan::of(container, init_role(container)))
        .chain(main.map(|container| ContainerPlan::of(container, Role::Main)))
        .chain(ephemeral.into_iter().flatten().map(ContainerPlan::of_ephemeral))
}

/// The volumes of a Pod that show images, in the order of their numbers.
pub fn image_volumes(pod: &Pod) -> impl Iterator<Item = ImageVolumePlan> {
    microkube_manifest::image_volumes(pod).map(|(name, source)| ImageVolumePlan {
        name: name.to_owned(),
        image: source.reference.clone().unwrap_or_default(),
        always_pull: source.pull_policy.as_deref() == Some("Always"),
    })
}

fn init_role(container: &Container) -> Role {
    match container.restart_policy.as_deref().and_then(RestartPolicy::parse) {
        Some(RestartPolicy::Always) => Role::Sidecar,
        _ => Role::Init,
    }
}

impl ContainerPlan {
    pub fn of_ephemeral(container: &EphemeralContainer) -> Self {
        Self::of(&as_container(container), Role::Ephemeral)
    }

    fn of(container: &Container, role: Role) -> Self {
        let restart_policy = container.restart_policy.as_deref().and_then(RestartPolicy::parse);
        // In Kubernetes, init containers have no probes and hooks unless they are sidecars.
        let probe = |probe: &Option<Probe>| probe.as_ref().filter(|_| role != Role::Init).map(ProbePlan::of);
        let lifecycle = container.lifecycle.as_ref().filter(|_| role != Role::Init);
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            role,
            always_pull: container.image_pull_policy.as_deref() == Some("Always"),
            restart_policy,
            restart_rules: container
                .restart_policy_rules
                .iter()
                .flatten()
                .filter_map(RestartRule::of)
                .collect(),
            post_start: lifecycle.is_some_and(|lifecycle| lifecycle.post_start.is_some()),
            pre_stop: lifecycle.is_some_and(|lifecycle| lifecycle.pre_stop.is_some()),
            resources: container.resources.clone().unwrap_or_default(),
            volume_mounts: container.volume_mounts.iter().flatten().map(mount_status).collect(),
            startup: probe(&container.startup_probe),
            liveness: probe(&container.liveness_probe),
            readiness: probe(&container.readiness_probe),
        }
    }

    pub fn probe(&self, kind: ProbeKind) -> Option<&ProbePlan> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
        }
    }

    /// The rule for this exit code (`findMatchingContainerRestartRule` in `pkg/api/v1/pod/util.go`).
    pub fn restart_rule(&self, exit_code: u8) -> Option<&RestartRule> {
        self.restart_rules.iter().find(|rule| rule.matches(exit_code))
    }

    pub fn is_init(&self) -> bool {
        matches!(self.role, Role::Init | Role::Sidecar)
    }

    /// Whether the container's failure is a failure of the Pod.
    pub fn counts_for_exit_code(&self) -> bool {
        matches!(self.role, Role::Init | Role::Main)
    }

    pub fn is_ephemeral(&self) -> bool {
        self.role == Role::Ephemeral
    }

    pub fn is_sidecar(&self) -> bool {
        self.role == Role::Sidecar
    }

    pub fn is_main(&self) -> bool {
        self.role == Role::Main
    }
}

/// The kubelet's status of a mount. Recursive read-only has no meaning for a writable mount.
fn mount_status(mount: &VolumeMount) -> VolumeMountStatus {
    let is_read_only = mount.read_only == Some(true);
    let recursive = match mount.recursive_read_only.as_deref() {
        Some("Enabled" | "IfPossible") => "Enabled",
        _ => "Disabled",
    };
    VolumeMountStatus {
        name: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: is_read_only.then_some(true),
        recursive_read_only: is_read_only.then(|| recursive.to_owned()),
        ..VolumeMountStatus::default()
    }
}

impl ProbePlan {
    fn of(probe: &Probe) -> Self {
        // Absent and zero mean the default (`SetDefaults_Probe`); the minimum is one.
        let number = |value: Option<i32>, default: u32| {
            u32::try_from(value.unwrap_or_default())
                .ok()
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let time = |value, default| Duration::from_secs(u64::from(number(value, default)));
        Self {
            initial_delay: time(probe.initial_delay_seconds, 0),
            period: time(probe.period_seconds, 10),
            timeout: time(probe.timeout_seconds, 1),
            success_threshold: number(probe.success_threshold, 1),
            failure_threshold: number(probe.failure_threshold, 3),
            grace: probe.termination_grace_period_seconds.map(seconds),
        }
    }
}

fn seconds(value: i64) -> Duration {
    Duration::from_secs(u64::try_from(value).unwrap_or_default())
}
