//! A Pod from the manifest with the values that only this host can provide, resolved once and passed on as one value.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::downward::PodStatusFields;
use microkube_manifest::quantity::Quantity;
use microkube_manifest::resources::{self, VmSize};
use microkube_manifest::{security, sysctl};
use microkube_projection::is_projected;
use microkube_protocol::messages::{EmptyDir, ImageVolume, Share, Sysctl, Volume};
use microkube_vmm::config::MAX_VCPU_COUNT;

use super::projected_volumes;
use crate::network::{self, HostAlias, PodNetwork};
use crate::state::PodRecord;

/// The Pod and the host's values.
#[derive(Debug)]
pub struct ResolvedPod<'p> {
    pub pod: &'p Pod,
    pub hostname: String,
    /// Status fields for the downward API.
    pub status: PodStatusFields,
    pub host_memory_bytes: u64,
}

impl<'p> ResolvedPod<'p> {
    /// Resolves the Pod of this record for this host and network.
    ///
    /// # Errors
    /// If the size of this host's memory is unknown.
    pub fn new(record: &'p PodRecord, net: &PodNetwork) -> anyhow::Result<Self> {
        Self::of_addresses(record, net.address, net.gateway)
    }

    /// Resolves the Pod of this record for this host and the addresses of the Pod and the host.
    ///
    /// # Errors
    /// If the size of this host's memory is unknown.
    pub fn of_addresses(record: &'p PodRecord, pod_ip: Ipv4Addr, host_ip: Ipv4Addr) -> anyhow::Result<Self> {
        let status = PodStatusFields {
            uid: record.uid.clone(),
            pod_ip: Some(pod_ip),
            host_ip: Some(host_ip),
            node_name: node_name(),
        };
        let host_memory_bytes = nix::sys::sysinfo::sysinfo()
            .context("cannot determine the host's memory")?
            .ram_total();
        Ok(Self {
            pod: &record.pod,
            hostname: hostname(&record.pod),
            status,
            host_memory_bytes,
        })
    }

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

    ///
    /// # Errors
    /// If `dnsPolicy: None` has no name server.
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

    #[must_use]
    pub fn shares_process_namespace(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.share_process_namespace) == Some(true)
    }

    /// Whether the containers run in a user namespace of the Pod.
    #[must_use]
    pub fn has_user_namespace(&self) -> bool {
        self.pod.spec.as_ref().and_then(|spec| spec.host_users) == Some(false)
    }

    /// The kernel's settings for the Pod.
    #[must_use]
    pub fn sysctls(&self) -> Vec<Sysctl> {
        let context = self.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let sysctls = context
            .and_then(|context| context.sysctls.as_deref())
            .unwrap_or_default();
        let sysctls = sysctls.iter().map(|own| Sysctl {
            name: sysctl::normalized(&own.name),
            value: own.value.clone(),
            ..Default::default()
        });
        sysctls.collect()
    }

    /// The volumes of the sandbox. `image_layers` are the layers of those that show images, by their names.
    ///
    /// # Errors
    /// If a size is not a quantity, or a volume's type is not supported; validation refuses both earlier. If the layers of
    /// an image are missing.
    pub fn volumes(&self, image_layers: &HashMap<String, Vec<String>>) -> anyhow::Result<Vec<Volume>> {
        let volumes = self
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_deref())
            .unwrap_or_default();
        volumes
            .iter()
            .map(|volume| {
                if is_projected(volume) {
                    return Ok(Volume {
                        name: volume.name.clone(),
                        file_volume: Some(projected_volumes::declaration(self.pod)).into(),
                        ..Default::default()
                    });
                }
                if volume.host_path.is_some() || volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
                {
                    return Ok(Volume {
                        name: volume.name.clone(),
                        share: Some(Share::default()).into(),
                        ..Default::default()
                    });
                }
                if volume.image.is_some() {
                    let layers = image_layers.get(&volume.name);
                    let layers = layers.with_context(|| format!("the image of volume {:?} is missing", volume.name))?;
                    let image = ImageVolume {
                        layer_ids: layers.clone(),
                        ..Default::default()
                    };
                    return Ok(Volume {
                        name: volume.name.clone(),
                        image: Some(image).into(),
                        ..Default::default()
                    });
                }
                let Some(empty_dir) = &volume.empty_dir else {
                    bail!("volume {:?} has an unsupported type", volume.name)
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
                    fs_group: security::fs_group(self.pod),
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

/// The size of a Pod's VM on this host, without the files of its volumes.
#[must_use]
pub fn vm_size(pod: &Pod) -> VmSize {
    let mut host_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if crate::emulated_host::is_inside() {
        // The emulated host has a single processor only because of QEMU.
        host_cpus = host_cpus.max(2);
    }
    resources::vm_size(pod, u8::try_from(host_cpus).unwrap_or(u8::MAX).min(MAX_VCPU_COUNT))
}

/// The Kubernetes node name of this host: its host name in lower case, as in the kubelet.
#[must_use]
pub fn node_name() -> String {
    let name = nix::unistd::gethostname().ok();
    name.and_then(|name| name.into_string().ok())
        .unwrap_or_default()
        .to_lowercase()
}

/// Host name of the Pod: `spec.hostname`, or the Pod's name, cut to a valid length (`GeneratePodHostNameAndDomain` in
/// `pkg/kubelet/kubelet_pods.go`).
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
    fn the_hostname_defaults_to_the_pods_name_and_is_never_too_long() {
        assert_eq!(hostname(&pod("web", None)), "web");
        assert_eq!(hostname(&pod("web", Some("other"))), "other");
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        assert_eq!(hostname(&pod(&long, None)), "a".repeat(62));
    }

    #[test]
    fn an_image_volume_has_the_layers_of_its_image() {
        let mut pod = pod("web", None);
        let volumes =
            serde_json::json!([{ "name": "data", "emptyDir": {} }, { "name": "model", "image": { "reference": "m" } }]);
        let spec = pod.spec.get_or_insert_default();
        spec.volumes = serde_json::from_value(volumes).unwrap();
        let resolved = ResolvedPod {
            pod: &pod,
            hostname: "web".to_owned(),
            status: PodStatusFields::default(),
            host_memory_bytes: 0,
        };
        let layers = ["l1", "l0"].map(str::to_owned).to_vec();
        let volumes = resolved.volumes(&HashMap::from([("model".to_owned(), layers.clone())]));
        let volumes = volumes.unwrap();
        assert!(volumes[0].empty_dir.is_some() && volumes[0].image.is_none());
        assert_eq!(
            (volumes[1].name.as_str(), &volumes[1].image.layer_ids),
            ("model", &layers)
        );
        let error = resolved.volumes(&HashMap::new()).unwrap_err().to_string();
        assert_eq!(error, "the image of volume \"model\" is missing");
    }
}
