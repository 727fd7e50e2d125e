//! From the Pod's manifest and its images to what the agent is asked for: sandbox files, volumes, and one request a container.

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::{Container, Pod, SecurityContext};
use microkube_protocol::messages::{EmptyDir, Mount, Resources, Security, StartContainerRequest, User, Volume};

use super::supervisor::PlannedContainer;
use crate::image::Image;
use crate::manifest::{process, resources};
use crate::network::{self, HostAlias};

/// Docker's default capabilities (moby: `oci/caps/defaults.go`).
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// All capabilities of Linux 6.12 (`include/uapi/linux/capability.h`).
const ALL_CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

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
    let aliases = pod.spec.as_ref().and_then(|spec| spec.host_aliases.clone()).unwrap_or_default();
    let aliases: Vec<_> = aliases
        .into_iter()
        .map(|alias| HostAlias { ip: alias.ip, hostnames: alias.hostnames.unwrap_or_default() })
        .collect();
    network::pod_etc_hosts(hostname, Some(address), &aliases)
}

/// Content of the Pod's `/etc/resolv.conf`.
///
/// # Errors
/// When `dnsPolicy: None` comes without a name server.
pub fn etc_resolv_conf(pod: &Pod) -> anyhow::Result<String> {
    let spec = pod.spec.as_ref().context("the Pod has no spec")?;
    let base = if spec.dns_policy.as_deref() == Some("None") { String::new() } else { network::host_resolv_conf() };
    let Some(config) = &spec.dns_config else { return Ok(base) };
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
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
    volumes
        .iter()
        .map(|volume| {
            let Some(empty_dir) = &volume.empty_dir else {
                bail!("volume {:?} is of a kind that is not supported", volume.name)
            };
            let size_limit_bytes = match &empty_dir.size_limit {
                Some(quantity) => resources::bytes(quantity)?,
                None => 0,
            };
            let empty_dir = EmptyDir {
                memory: empty_dir.medium.as_deref() == Some("Memory"),
                size_limit_bytes,
                ..Default::default()
            };
            Ok(Volume { name: volume.name.clone(), empty_dir: Some(empty_dir).into(), ..Default::default() })
        })
        .collect()
}

/// Everything about one container.
///
/// # Errors
/// When the manifest and the image together make no container, in the kubelet's words.
pub fn plan(
    pod: &Pod,
    container: &Container,
    image: &Image,
    layer_ids: Vec<String>,
    pod_ip: &str,
) -> anyhow::Result<PlannedContainer> {
    let name = container.name.clone();
    let image_config = image.config.config().clone().unwrap_or_default();
    let context = || format!("container {name:?}");
    let process = process::build(pod, container, &image_config, pod_ip).with_context(context)?;
    let user = user(pod, container, image_config.user().as_deref()).with_context(context)?;
    let mounts = container.volume_mounts.iter().flatten().map(|mount| Mount {
        volume: mount.name.clone(),
        mount_path: mount.mount_path.clone(),
        read_only: mount.read_only.unwrap_or(false),
        sub_path: mount.sub_path.clone().unwrap_or_default(),
        ..Default::default()
    });
    let limits = resources::container_resources(container).with_context(context)?;
    let request = StartContainerRequest {
        id: name.clone(),
        layer_ids,
        args: process.args,
        env: process.env,
        working_dir: process.working_dir,
        user: Some(user).into(),
        mounts: mounts.collect(),
        resources: Some(Resources {
            cpu_quota_us: limits.cpu_quota_us,
            cpu_period_us: limits.cpu_period_us,
            cpu_weight: limits.cpu_weight,
            memory_limit_bytes: limits.memory_limit_bytes,
            ..Default::default()
        })
        .into(),
        security: Some(security(container.security_context.as_ref())).into(),
        ..Default::default()
    };
    let stop_signal = stop_signal(image_config.stop_signal().as_deref()).with_context(context)?;
    Ok(PlannedContainer { name, request, stop_signal })
}

/// The container's user: its own `securityContext`, else the Pod's, else the image's USER.
fn user(pod: &Pod, container: &Container, image_user: Option<&str>) -> anyhow::Result<User> {
    let pod_context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let uid = own.and_then(|own| own.run_as_user).or(pod_context.and_then(|pod| pod.run_as_user));
    let gid = own.and_then(|own| own.run_as_group).or(pod_context.and_then(|pod| pod.run_as_group));
    let non_root = own.and_then(|own| own.run_as_non_root).or(pod_context.and_then(|pod| pod.run_as_non_root));
    let image_user = image_user.unwrap_or_default();
    let spec = match (uid, gid) {
        (Some(uid), Some(gid)) => format!("{uid}:{gid}"),
        (Some(uid), None) => uid.to_string(),
        (None, Some(_)) => bail!("runAsGroup is specified without a runAsUser"),
        (None, None) => image_user.to_owned(),
    };
    if non_root == Some(true) {
        // The kubelet's words (`verifyRunAsNonRoot` in `pkg/kubelet/kuberuntime/security_context.go`).
        let name = spec.split(':').next().unwrap_or_default();
        match name.parse::<u32>() {
            Ok(0) if uid.is_some() => bail!("container's runAsUser breaks non-root policy"),
            Ok(0) => bail!("container has runAsNonRoot and image will run as root"),
            Ok(_) => {}
            Err(_) if name.is_empty() => bail!("container has runAsNonRoot and image will run as root"),
            Err(_) => bail!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            ),
        }
    }
    let groups = pod_context.and_then(|pod| pod.supplemental_groups.as_deref()).unwrap_or_default();
    let supplemental_gids = groups
        .iter()
        .map(|gid| u32::try_from(*gid).with_context(|| format!("supplemental group {gid} is not a group id")))
        .collect::<Result<_, _>>()?;
    Ok(User { spec, supplemental_gids, ..Default::default() })
}

fn security(context: Option<&SecurityContext>) -> Security {
    let privileged = context.and_then(|context| context.privileged).unwrap_or(false);
    let (add, drop) = context
        .and_then(|context| context.capabilities.as_ref())
        .map_or((&[][..], &[][..]), |c| (c.add.as_deref().unwrap_or_default(), c.drop.as_deref().unwrap_or_default()));
    Security {
        capabilities: if privileged {
            ALL_CAPABILITIES.iter().map(ToString::to_string).collect()
        } else {
            capabilities(add, drop)
        },
        seccomp_unconfined: privileged,
        no_new_privileges: context.and_then(|context| context.allow_privilege_escalation) == Some(false),
        read_only_rootfs: context.and_then(|context| context.read_only_root_filesystem).unwrap_or(false),
        privileged,
        ..Default::default()
    }
}

/// Docker's defaults with `add` added and `drop` dropped; `ALL` stands for all, and what is named beats what is not
/// (containerd: `oci.WithCapabilities` as `internal/cri` uses it).
fn capabilities(add: &[String], drop: &[String]) -> Vec<String> {
    let normal = |name: &String| {
        let name = name.to_ascii_uppercase();
        if name.starts_with("CAP_") || name == "ALL" { name } else { format!("CAP_{name}") }
    };
    let (add, drop): (Vec<_>, Vec<_>) = (add.iter().map(normal).collect(), drop.iter().map(normal).collect());
    let has = |list: &[String], name: &str| list.iter().any(|entry| entry == name);
    ALL_CAPABILITIES
        .iter()
        .filter(|name| {
            if has(&drop, name) {
                return false;
            }
            let base = has(&add, "ALL") || (!has(&drop, "ALL") && DEFAULT_CAPABILITIES.contains(name));
            base || has(&add, name)
        })
        .map(ToString::to_string)
        .collect()
}

/// The number of the image's STOPSIGNAL: a name with or without `SIG`, a number, or `RTMIN+n`; SIGTERM without one.
fn stop_signal(name: Option<&str>) -> anyhow::Result<u32> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(libc::SIGTERM.unsigned_abs()) };
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = short.parse::<u32>().ok().or_else(|| {
        if let Some(offset) = short.strip_prefix("RTMIN") {
            return Some(34 + offset.strip_prefix('+').map_or(Some(0), |n| n.parse::<u32>().ok())?);
        }
        if let Some(offset) = short.strip_prefix("RTMAX") {
            return 64_u32.checked_sub(offset.strip_prefix('-').map_or(Some(0), |n| n.parse::<u32>().ok())?);
        }
        format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|signal| (signal as i32).unsigned_abs())
    });
    match number {
        Some(number @ 1..=64) => Ok(number),
        _ => bail!("the image's stop signal {name:?} is not a signal"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSecurityContext, PodSpec};

    use super::*;

    fn pod(name: &str, hostname: Option<&str>) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.to_owned());
        pod.spec = Some(PodSpec { hostname: hostname.map(str::to_owned), ..Default::default() });
        pod
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_host_name_is_the_pods_name_unless_it_is_given_and_never_too_long() {
        assert_eq!(hostname(&pod("web", None)), "web");
        assert_eq!(hostname(&pod("web", Some("other"))), "other");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(&long, None)), "a".repeat(62));
    }

    #[test]
    fn without_changes_a_container_has_dockers_capabilities() {
        let mut expected = strings(&DEFAULT_CAPABILITIES);
        let mut found = capabilities(&[], &[]);
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_name_or_altogether() {
        assert_eq!(capabilities(&strings(&["NET_ADMIN"]), &strings(&["ALL"])), ["CAP_NET_ADMIN"]);
        assert_eq!(capabilities(&strings(&["all"]), &strings(&["KILL"])).len(), ALL_CAPABILITIES.len() - 1);
        assert!(!capabilities(&[], &strings(&["CAP_CHOWN"])).contains(&"CAP_CHOWN".to_owned()));
    }

    #[test]
    fn stop_signals_are_understood_as_names_and_numbers() {
        let cases = [(None, 15), (Some("SIGQUIT"), 3), (Some("quit"), 3), (Some("9"), 9), (Some("SIGRTMIN+3"), 37)];
        for (name, number) in cases {
            assert_eq!(stop_signal(name).unwrap(), number, "{name:?}");
        }
        for bad in ["SIGNOTHING", "0", "65", "RTMIN+x"] {
            assert!(stop_signal(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_containers_user_beats_the_pods_and_the_images() {
        let mut pod = pod("web", None);
        let mut container = Container::default();
        assert_eq!(user(&pod, &container, Some("nginx")).unwrap().spec, "nginx");
        pod.spec.as_mut().unwrap().security_context =
            Some(PodSecurityContext { run_as_user: Some(5), run_as_group: Some(6), ..Default::default() });
        assert_eq!(user(&pod, &container, Some("nginx")).unwrap().spec, "5:6");
        container.security_context = Some(SecurityContext { run_as_user: Some(7), ..Default::default() });
        assert_eq!(user(&pod, &container, Some("nginx")).unwrap().spec, "7:6");
    }

    #[test]
    fn run_as_non_root_refuses_root_and_users_that_cannot_be_told_from_root() {
        let mut pod = pod("web", None);
        pod.spec.as_mut().unwrap().security_context =
            Some(PodSecurityContext { run_as_non_root: Some(true), ..Default::default() });
        let refused = |image_user| user(&pod, &Container::default(), image_user).unwrap_err().to_string();
        assert_eq!(refused(None), "container has runAsNonRoot and image will run as root");
        assert_eq!(refused(Some("0:0")), "container has runAsNonRoot and image will run as root");
        assert!(refused(Some("nginx")).contains("non-numeric user (nginx)"));
        assert!(user(&pod, &Container::default(), Some("1000")).is_ok());
    }
}
