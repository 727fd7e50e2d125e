//! A Pod of the manifest together with what only this host decides: worked out once, then passed on as one value.

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::downward::PodStatusFields;
use microkube_manifest::quantity::Quantity;
use microkube_manifest::resources::{self, VmSize};
use microkube_protocol::messages::{EmptyDir, Volume};
use microkube_vmm::config::MAX_VCPU_COUNT;

use crate::network::{self, HostAlias, PodNetwork};
use crate::state::PodRecord;

/// The Pod and what this host decides.
#[derive(Debug)]
pub struct ResolvedPod<'p> {
    /// The manifest.
    pub pod: &'p Pod,
    /// Host name of the Pod.
    pub hostname: String,
    /// What fields of the downward API show.
    pub status: PodStatusFields,
    /// RAM of this host.
    pub host_memory_bytes: u64,
}

impl<'p> ResolvedPod<'p> {
    /// The Pod of this record on this host, in this network.
    ///
    /// # Errors
    /// When the host does not say how much memory it has.
    pub fn new(record: &'p PodRecord, net: &PodNetwork) -> anyhow::Result<Self> {
        let status = PodStatusFields {
            uid: record.uid.clone(),
            pod_ip: Some(net.address),
            host_ip: Some(net.gateway),
            node_name: node_name(),
        };
        let host_memory_bytes = nix::sys::sysinfo::sysinfo()
            .context("cannot tell how much memory the host has")?
            .ram_total();
        Ok(Self {
            pod: &record.pod,
            hostname: hostname(&record.pod),
            status,
            host_memory_bytes,
        })
    }

    /// Size of the virtual machine.
    #[must_use]
    pub fn vm_size(&self) -> VmSize {
        let mut host_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if crate::emulated_host::is_inside() {
            // The emulated host has one processor for QEMU's sake, not because there is no more.
            host_cpus = host_cpus.max(2);
        }
        resources::vm_size(self.pod, u8::try_from(host_cpus).unwrap_or(u8::MAX).min(MAX_VCPU_COUNT))
    }

    /// Content of the Pod's `/etc/hosts`.
    #[must_use]
    pub fn etc_hosts(&self) -> String {
        let aliases = self
            .pod
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
        network::pod_etc_hosts(&self.hostname, self.status.pod_ip, &aliases)
    }

    /// Content of the Pod's `/etc/resolv.conf`.
    ///
    /// # Errors
    /// When `dnsPolicy: None` comes without a name server.
    pub fn etc_resolv_conf(&self) -> anyhow::Result<String> {
        let spec = self.pod.spec.as_ref().context("the Pod has no spec")?;
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
    pub fn volumes(&self) -> anyhow::Result<Vec<Volume>> {
        let volumes = self
            .pod
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
                        let quantity: Quantity =
                            limit.0.parse().with_context(|| format!("volume {:?}", volume.name))?;
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
}

/// What this host is called where Kubernetes names the node of a Pod: in lower case, as the kubelet has it.
#[must_use]
pub fn node_name() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .unwrap_or_default()
        .to_lowercase()
}

/// Host name of the Pod: `spec.hostname`, else the Pod's name, cut to what a host name may be
/// (`GeneratePodHostNameAndDomain` in `pkg/kubelet/kubelet_pods.go`).
fn hostname(pod: &Pod) -> String {
    const MAX_HOSTNAME_BYTES: usize = 63;
    let name = match pod.spec.as_ref().and_then(|spec| spec.hostname.as_deref()) {
        Some(hostname) if !hostname.is_empty() => hostname,
        _ => pod.metadata.name.as_deref().unwrap_or_default(),
    };
    let cut: String = name.chars().take(MAX_HOSTNAME_BYTES).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
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
    fn the_host_name_is_the_pods_name_unless_it_is_given_and_never_too_long() {
        assert_eq!(hostname(&pod("web", None)), "web");
        assert_eq!(hostname(&pod("web", Some("other"))), "other");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(&long, None)), "a".repeat(62));
    }
}
