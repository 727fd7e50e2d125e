//! From a container of the manifest and its image to what the agent is asked for.

use k8s_openapi::api::core::v1::Container;
use microkube_image::Image;
use microkube_manifest::process::{self, ImageProcess, ProcessError};
use microkube_manifest::{resources, security};
use microkube_protocol::messages::{Mount, Resources, Security, StartContainerRequest, User};
use serde::{Deserialize, Serialize};

use super::resolved_pod::ResolvedPod;

/// A container as the agent is asked for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlannedContainer {
    /// Name in the manifest.
    pub name: String,
    /// The request that starts it; its id is the attempt's to set.
    #[serde(with = "request_bytes")]
    pub request: StartContainerRequest,
    /// Number of the signal that asks it to stop.
    pub stop_signal: u32,
}

/// Why the manifest and the image together make no container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanFailure {
    /// As the kubelet shows it: `CreateContainerConfigError`, or `CreateContainerError` where only the runtime finds out.
    pub reason: String,
    /// In the kubelet's words.
    pub message: String,
}

impl PlanFailure {
    fn new(container: &str, error: ProcessError) -> Self {
        let reason = match error {
            ProcessError::NoCommand => "CreateContainerError",
            _ => "CreateContainerConfigError",
        };
        let error = anyhow::Error::from(error).context(format!("container {container:?}"));
        Self {
            reason: reason.to_owned(),
            message: format!("{error:#}"),
        }
    }
}

/// Requests in records: as they travel, in base64.
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

/// Everything about one container on a host with so much memory.
///
/// # Errors
/// When the manifest and the image together make no container.
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
    let process = process::container_process(pod, container, &image_process, &resolved.hostname, &resolved.status)
        .map_err(|error| PlanFailure::new(&name, error))?;
    let mounts = container.volume_mounts.iter().flatten().map(|mount| Mount {
        volume: mount.name.clone(),
        mount_path: absolute(&mount.mount_path),
        read_only: mount.read_only.unwrap_or(false),
        sub_path: mount.sub_path.clone().unwrap_or_default(),
        ..Default::default()
    });
    let limits = resources::cgroup_settings(container);
    let confinement = security::confinement(pod, container);
    let request = StartContainerRequest {
        layer_ids,
        args: process.args,
        env: process.env,
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
            seccomp_unconfined: confinement.seccomp_unconfined,
            no_new_privileges: confinement.no_new_privileges,
            read_only_rootfs: confinement.read_only_rootfs,
            privileged: confinement.privileged,
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
        stop_signal: process.stop_signal,
    })
}

/// A path in a container; a relative one begins at its root (`MakeAbsolutePath` in `pkg/volume/util`, and runc for mounts of its own).
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
    fn a_container_without_a_command_has_the_reason_of_the_runtime_and_any_other_that_of_the_kubelet() {
        let failure = PlanFailure::new("main", ProcessError::NoCommand);
        assert_eq!(failure.reason, "CreateContainerError");
        assert!(
            failure.message.starts_with("container \"main\": no command specified"),
            "{failure:?}"
        );
        let failure = PlanFailure::new("main", ProcessError::RunAsRoot);
        assert_eq!(failure.reason, "CreateContainerConfigError");
    }

    #[test]
    fn paths_of_mounts_begin_at_the_root_of_the_container() {
        assert_eq!(absolute("data/x"), "/data/x");
        assert_eq!(absolute("/data/x"), "/data/x");
    }
}
