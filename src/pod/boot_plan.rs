//! The boot plan: turns a resolved Pod, its images and its host resources into requests to the VMM and the agent.

use std::collections::HashMap;

use microkube_image::Image;
use microkube_manifest::image_volumes;
use microkube_manifest::resources::VmSize;
use microkube_protocol::messages::{CreateSandboxRequest, Layer, NetworkInterface};

use super::container_order::containers;
use super::container_spec::{self, PlanFailure, PlannedContainer};
use super::host_resources::HostResources;
use super::layer_disk::LayerDisk;
use super::resolved_pod::{ResolvedPod, vm_size};
use crate::network::PodNetwork;
use crate::privileged::{SCRATCH_DEVICE, Share, VmmRequest};
use crate::state::PodRecord;

/// The configuration of a Pod's VM and sandbox, complete before the VM starts.
#[derive(Debug)]
pub struct BootPlan {
    pub machine: VmmRequest,
    /// IP address of the Pod.
    pub pod_ip: String,
    /// IP address of the host in the Pod's network.
    pub host_ip: String,
    /// The first request to the agent.
    pub sandbox_request: CreateSandboxRequest,
    pub layer_disk: LayerDisk,
    /// Each container's start request, or why it cannot be started.
    pub containers: Vec<Result<PlannedContainer, PlanFailure>>,
}

/// Plans the boot of a Pod with the images of all containers and those of all image volumes. `volumes_mib` is the memory
/// for the files of its volumes, and `shares` are those of the host.
///
/// # Errors
/// If a layer is missing, or the Pod cannot run at all.
pub fn plan(
    record: &PodRecord,
    (images, volume_images): (&[Image], &[Image]),
    resources: HostResources,
    volumes_mib: u32,
    shares: Vec<Share>,
    debug: bool,
) -> anyhow::Result<BootPlan> {
    let HostResources { net, scratch, .. } = resources;
    let mut layer_disk = LayerDisk::empty();
    let (mut layers, mut layer_files) = (Vec::new(), Vec::new());
    for image in images.iter().chain(volume_images) {
        let new = layer_disk.place(image)?;
        layers.extend(new.layers);
        layer_files.extend(new.files);
    }
    let image_volumes = image_volumes(&record.pod).zip(volume_images);
    let image_volumes = image_volumes.map(|((name, _), image)| (name.to_owned(), layer_disk.stack_of_volume(image)));
    let image_volumes = image_volumes.collect();
    let resolved = ResolvedPod::new(record, &net)?;
    let planned = containers(&record.pod).zip(images);
    let planned =
        planned.map(|(container, image)| container_spec::plan(&resolved, container, image, layer_disk.stack(image)));
    let planned = planned.collect();
    let VmSize {
        vcpu_count,
        mem_size_mib,
    } = vm_size(&record.pod);
    let sandbox_request = sandbox_request(&resolved, &net, layers, &image_volumes)?;
    let (pod_ip, host_ip) = (net.address.to_string(), net.gateway.to_string());
    let machine = VmmRequest {
        mem_size_mib: mem_size_mib.saturating_add(volumes_mib),
        vcpu_count,
        scratch,
        layers: layer_files,
        net: Some((net.tap, net.mac)),
        shares,
        maps_users: resolved.has_user_namespace(),
        debug,
        outlives_supervisor: record.detached,
    };
    Ok(BootPlan {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
        layer_disk,
        containers: planned,
    })
}

fn sandbox_request(
    resolved: &ResolvedPod<'_>,
    net: &PodNetwork,
    layers: Vec<Layer>,
    image_volumes: &HashMap<String, Vec<String>>,
) -> anyhow::Result<CreateSandboxRequest> {
    let interface = NetworkInterface {
        mac: net.mac.to_vec(),
        name: "eth0".to_owned(),
        address: net.address.octets().to_vec(),
        prefix_length: u32::from(net.prefix_length),
        gateway: net.gateway.octets().to_vec(),
        mtu: net.mtu,
        ..Default::default()
    };
    Ok(CreateSandboxRequest {
        hostname: resolved.hostname.clone(),
        network: Some(interface).into(),
        etc_hosts: resolved.etc_hosts().into_bytes(),
        etc_resolv_conf: resolved.etc_resolv_conf()?.into_bytes(),
        etc_hostname: format!("{}\n", resolved.hostname).into_bytes(),
        scratch_device: SCRATCH_DEVICE.to_owned(),
        layers,
        volumes: resolved.volumes(image_volumes)?,
        shm_size_bytes: 64 << 20,
        share_process_namespace: resolved.shares_process_namespace(),
        sysctls: resolved.sysctls(),
        user_namespace: resolved.has_user_namespace(),
        ..Default::default()
    })
}
