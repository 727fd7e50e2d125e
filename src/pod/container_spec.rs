//! Turns a container of the manifest and its image into requests to the agent.

use k8s_openapi::api::core::v1::{Container, VolumeMount};
use microkube_image::Image;
use microkube_manifest::process::{self, ImageProcess, ProcessError};
use microkube_manifest::resources;
use microkube_manifest::security::{self, Seccomp};
use microkube_protocol::messages::{Mount, MountPropagation, Resources, Security, StartContainerRequest, User};
use serde::{Deserialize, Serialize};

use super::resolved_pod::ResolvedPod;

/// A container, ready to be requested from the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedContainer {
    /// Name in the manifest.
    pub name: String,
    /// The request that starts it; each attempt sets its own id, command line and environment.
    #[serde(with = "request_bytes")]
    pub request: StartContainerRequest,
    /// What command line and environment take from the image; both are computed for each attempt (`pod_environment`).
    /// `None` in plans of earlier builds, whose request is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageProcess>,
    /// Number of its stop signal.
    pub stop_signal: u32,
}

/// Why the manifest and the image do not yield a valid container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanFailure {
    /// The kubelet's reason: `CreateContainerConfigError`, or `CreateContainerError` if only the runtime can detect the
    /// problem.
    pub reason: String,
    /// The kubelet's message.
    pub message: String,
}

impl PlanFailure {
    fn new(container: &str, error: ProcessError) -> Self {
        let reason = match error {
            ProcessError::NoCommand => "CreateContainerError",
            _ => "CreateContainerConfigError",
        };
        let names_container = matches!(
            error,
            ProcessError::RunAsRoot(_) | ProcessError::ImageRunsAsRoot(_) | ProcessError::NonNumericUser { .. }
        );
        let mut error = anyhow::Error::from(error);
        if !names_container {
            error = error.context(format!("container {container:?}"));
        }
        Self {
            reason: reason.to_owned(),
            message: format!("{error:#}"),
        }
    }
}

/// Serializes requests in records: protobuf in base64.
mod request_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use microkube_protocol::messages::StartContainerRequest;
    use protobuf::Message as _;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub fn serialize<S: Serializer>(request: &StartContainerRequest, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes = request.write_to_bytes().map_err(ser::Error::custom)?;
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<StartContainerRequest, D::Error> {
        let bytes = STANDARD
            .decode(String::deserialize(deserializer)?)
            .map_err(de::Error::custom)?;
        StartContainerRequest::parse_from_bytes(&bytes).map_err(de::Error::custom)
    }
}

/// Plans one container.
///
/// # Errors
/// If the manifest and the image do not yield a valid container.
pub fn plan(
    resolved: &ResolvedPod<'_>,
    container: &Container,
    image: &Image,
    layer_ids: Vec<String>,
) -> Result<PlannedContainer, PlanFailure> {
    let pod = resolved.pod;
    let name = container.name.clone();
    let image_process = image
        .config
        .config()
        .as_ref()
        .map(ImageProcess::from)
        .unwrap_or_default();
    let process =
        process::container_process(pod, container, &image_process).map_err(|error| PlanFailure::new(&name, error))?;
    let mounts = container.volume_mounts.iter().flatten().map(|mount| Mount {
        volume: mount.name.clone(),
        mount_path: absolute(&mount.mount_path),
        read_only: mount.read_only.unwrap_or(false),
        sub_path: mount.sub_path.clone().unwrap_or_default(),
        propagation: propagation(mount).into(),
        recursive_read_only: is_recursively_read_only(mount),
        ..Default::default()
    });
    let limits = resources::cgroup_settings(container);
    let confinement = security::confinement(pod, container);
    let request = StartContainerRequest {
        layer_ids,
        working_dir: process.working_dir,
        user: Some(User {
            spec: process.user,
            supplemental_gids: process.supplemental_gids,
            without_image_groups: process.without_image_groups,
            ..Default::default()
        })
        .into(),
        mounts: mounts.collect(),
        resources: Some(Resources {
            cpu_quota_us: limits.cpu_quota_us,
            cpu_period_us: limits.cpu_period_us,
            cpu_weight: limits.cpu_weight,
            memory_limit_bytes: limits.memory_limit_bytes,
            ..Default::default()
        })
        .into(),
        security: Some(Security {
            capabilities: confinement.capabilities.into_iter().map(str::to_owned).collect(),
            seccomp_unconfined: confinement.seccomp == Seccomp::Unconfined,
            no_new_privileges: confinement.no_new_privileges,
            read_only_rootfs: confinement.read_only_rootfs,
            privileged: confinement.privileged,
            unmasked_proc: confinement.unmasked_proc,
            ..Default::default()
        })
        .into(),
        stdin: container.stdin.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        termination_message_path: container
            .termination_message_path
            .as_deref()
            .filter(|path| !path.is_empty())
            .map(absolute)
            .unwrap_or_default(),
        oom_score_adj: resources::oom_score_adj(pod, container, resolved.host_memory_bytes),
        ..Default::default()
    };
    Ok(PlannedContainer {
        name,
        request,
        image: Some(image_process),
        stop_signal: process.stop_signal,
    })
}

fn propagation(mount: &VolumeMount) -> MountPropagation {
    match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => MountPropagation::MOUNT_PROPAGATION_HOST_TO_CONTAINER,
        Some("Bidirectional") => MountPropagation::MOUNT_PROPAGATION_BIDIRECTIONAL,
        _ => MountPropagation::MOUNT_PROPAGATION_NONE,
    }
}

/// Whether mounts in the volume are read-only as well; the guest's kernel can always do that.
fn is_recursively_read_only(mount: &VolumeMount) -> bool {
    matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"))
}

/// Makes a path in a container absolute: a relative one starts at the root directory (`MakeAbsolutePath` in
/// `pkg/volume/util`, and runc for its own mounts).
fn absolute(path: &str) -> String {
    match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("/{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_command_has_the_runtimes_reason_and_other_errors_the_kubelets() {
        let failure = PlanFailure::new("main", ProcessError::NoCommand);
        assert_eq!(failure.reason, "CreateContainerError");
        assert!(
            failure.message.starts_with("container \"main\": no command specified"),
            "{failure:?}"
        );
        let failure = PlanFailure::new("main", ProcessError::ArgumentsTooLarge);
        assert_eq!(failure.reason, "CreateContainerConfigError");
    }

    #[test]
    fn plans_of_earlier_builds_have_a_complete_request() {
        let request = StartContainerRequest {
            args: vec!["/run".to_owned()],
            ..Default::default()
        };
        let mut planned = PlannedContainer {
            name: "main".to_owned(),
            request,
            image: None,
            stop_signal: 15,
        };
        let mut written = serde_json::to_value(&planned).unwrap();
        assert!(written.as_object().is_some_and(|fields| !fields.contains_key("image")));
        let read: PlannedContainer = serde_json::from_value(written).unwrap();
        assert_eq!((read.request.args.len(), read.image), (1, None));
        planned.image = Some(ImageProcess {
            cmd: vec!["/serve".to_owned()],
            ..Default::default()
        });
        written = serde_json::to_value(&planned).unwrap();
        let read: PlannedContainer = serde_json::from_value(written).unwrap();
        assert_eq!(read.image, planned.image);
    }

    #[test]
    fn mount_paths_are_made_absolute() {
        assert_eq!(absolute("data/x"), "/data/x");
        assert_eq!(absolute("/data/x"), "/data/x");
    }
}
