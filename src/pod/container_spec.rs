//! From the Pod's manifest and its images to what the agent is asked for: sandbox files, volumes, and one request a container.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, Pod};
use microkube_image::Image;
use microkube_manifest::downward::PodStatusFields;
use microkube_manifest::process::{self, ImageProcess, ProcessError};
use microkube_manifest::quantity::Quantity;
use microkube_manifest::{resources, security};
use microkube_protocol::messages::{EmptyDir, Mount, Resources, Security, StartContainerRequest, User, Volume};
use serde::{Deserialize, Serialize};

use crate::network::{self, HostAlias};

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

/// Host name of the Pod: `spec.hostname`, else the Pod's name, cut to what a host name may be
/// (`GeneratePodHostNameAndDomain` in `pkg/kubelet/kubelet_pods.go`).
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    const MAX_HOSTNAME_BYTES: usize = 63;
    let name = match pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()) {
        Some(hostname) if !hostname.is_empty() => hostname,
        _ => pod.metadata.name.as_deref().unwrap_or_default(),
    };
    let cut: String = name.chars().take(MAX_HOSTNAME_BYTES).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// Content of the Pod's `/etc/hosts`.
#[must_use]
pub fn etc_hosts(pod: &Pod, hostname: &str, address: Ipv4Addr) -> String {
    let aliases = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.host_aliases.clone())
        .unwrap_or_default();
    let aliases: Vec<_> = aliases
        .into_iter()
        .map(|alias| HostAlias {
            ip: alias.ip,
            hostnames: alias.hostnames.unwrap_or_default(),
        })
        .collect();
    network::pod_etc_hosts(hostname, Some(address), &aliases)
}

/// Content of the Pod's `/etc/resolv.conf`.
///
/// # Errors
/// When `dnsPolicy: None` comes without a name server.
pub fn etc_resolv_conf(pod: &Pod) -> anyhow::Result<String> {
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    let base = if spec.dns_policy.as_deref() == Some("None") {
        String::new()
    } else {
        network::host_resolv_conf()
    };
    let Some(config) = &spec.dns_config else {
        return Ok(base);
    };
    let options: Vec<_> = config
        .options
        .iter()
        .flatten()
        .filter_map(|option| Some((option.name.clone()?, option.value.clone())))
        .collect();
    Ok(network::with_dns_config(
        &base,
        config.nameservers.as_deref().unwrap_or_default(),
        config.searches.as_deref().unwrap_or_default(),
        &options,
    ))
}

/// The Pod's volumes.
///
/// # Errors
/// When a size is not a quantity or the volume is of a kind that is not supported; validation refuses both before.
pub fn volumes(pod: &Pod) -> anyhow::Result<Vec<Volume>> {
    let volumes = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.volumes.as_deref())
        .unwrap_or_default();
    volumes
        .iter()
        .map(|volume| {
            let Some(empty_dir) = &volume.empty_dir else {
                bail!("volume {:?} is of a kind that is not supported", volume.name)
            };
            let size_limit_bytes = match &empty_dir.size_limit {
                Some(limit) => {
                    let quantity: Quantity = limit.0.parse().with_context(|| format!("volume {:?}", volume.name))?;
                    u64::try_from(quantity.units()).unwrap_or(0)
                }
                None => 0,
            };
            let empty_dir = EmptyDir {
                memory: empty_dir.medium.as_deref() == Some("Memory"),
                size_limit_bytes,
                ..Default::default()
            };
            Ok(Volume {
                name: volume.name.clone(),
                empty_dir: Some(empty_dir).into(),
                ..Default::default()
            })
        })
        .collect()
}

/// Everything about one container on a host with so much memory.
///
/// # Errors
/// When the manifest and the image together make no container.
pub fn plan(
    pod: &Pod,
    container: &Container,
    image: &Image,
    layer_ids: Vec<String>,
    status: &PodStatusFields,
    host_memory_bytes: u64,
) -> Result<PlannedContainer, PlanFailure> {
    let name = container.name.clone();
    let image_process = image
        .config
        .config()
        .as_ref()
        .map(ImageProcess::from)
        .unwrap_or_default();
    let process = process::container_process(pod, container, &image_process, &hostname(pod), status)
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
        oom_score_adj: resources::oom_score_adj(pod, container, host_memory_bytes),
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
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    fn pod(name: &str, hostname: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.spec = Some(PodSpec {
            hostname: hostname.map(str::to_owned),
            ..Default::default()
        });
        pod
    }

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

    #[test]
    fn the_host_name_is_the_pods_name_unless_it_is_given_and_never_too_long() {
        assert_eq!(hostname(&pod("web", None)), "web");
        assert_eq!(hostname(&pod("web", Some("other"))), "other");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(&long, None)), "a".repeat(62));
    }
}
