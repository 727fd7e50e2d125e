//! The plan of a boot: a resolved Pod, its images and its host resources become what the VMM and the agent are asked for.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use anyhow::Context as _;
use microkube_image::Image;
use microkube_manifest::resources::VmSize;
use microkube_protocol::messages::{CreateSandboxRequest, Layer, NetworkInterface};

use super::container_order::containers;
use super::container_spec::{self, PlanFailure, PlannedContainer};
use super::host_resources::HostResources;
use super::resolved_pod::ResolvedPod;
use crate::network::PodNetwork;
use crate::privileged::{LAYERS_DEVICE, SCRATCH_DEVICE, VmmRequest};
use crate::state::PodRecord;

/// The configuration of a Pod's VM and sandbox, complete before the VM starts.
#[derive(Debug)]
pub struct BootPlan {
    /// The machine to start.
    pub machine: VmmRequest,
    /// Address of the Pod.
    pub pod_ip: String,
    /// Address of the host in the Pod's network.
    pub host_ip: String,
    /// The first request to the agent.
    pub sandbox_request: CreateSandboxRequest,
    /// Every container's request, or why it cannot be started.
    pub containers: Vec<Result<PlannedContainer, PlanFailure>>,
}

/// Plans the boot of a Pod. `images` has the image of every container.
///
/// # Errors
/// When a layer is gone, or the Pod is impossible as a whole.
pub fn plan(record: &PodRecord, images: &[Image], resources: HostResources, debug: bool) -> anyhow::Result<BootPlan> {
    let HostResources { net, scratch, .. } = resources;
    let (layers, layer_ids, layer_files) = lay_out(images)?;
    let resolved = ResolvedPod::new(record, &net)?;
    let planned = containers(&record.pod).zip(images);
    let planned =
        planned.map(|(container, image)| container_spec::plan(&resolved, container, image, stack(image, &layer_ids)));
    let planned = planned.collect();
    let VmSize {
        vcpu_count,
        mem_size_mib,
    } = resolved.vm_size();
    let sandbox_request = sandbox_request(&resolved, &net, layers)?;
    let (pod_ip, host_ip) = (net.address.to_string(), net.gateway.to_string());
    let machine = VmmRequest {
        mem_size_mib,
        vcpu_count,
        scratch,
        layers: layer_files,
        net: Some((net.tap, net.mac)),
        debug,
        outlives_supervisor: record.detached,
    };
    Ok(BootPlan {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
        containers: planned,
    })
}

/// Ids of layers in the sandbox, by file.
type LayerIds = HashMap<PathBuf, String>;

/// The disk of layers: the agent's list of them, their ids by file, and the files for the VMM with their lengths.
type LayerDisk = (Vec<Layer>, LayerIds, Vec<(std::fs::File, u64)>);

/// Puts the layers of all images, each once, one after the other on the disk of layers.
fn lay_out(images: &[Image]) -> anyhow::Result<LayerDisk> {
    let (mut layers, mut ids, mut files) = (Vec::new(), LayerIds::new(), Vec::new());
    let mut offset_bytes = 0_u64;
    let mut opened = Vec::new();
    for image in images {
        opened.extend(image.layers.iter().zip(image.open_layers()?));
    }
    for (layer, file) in opened {
        if ids.contains_key(&layer.path) {
            continue;
        }
        let id = format!("l{}", layers.len());
        layers.push(Layer {
            id: id.clone(),
            device: LAYERS_DEVICE.to_owned(),
            offset_bytes,
            length_bytes: layer.length_bytes,
            ..Default::default()
        });
        ids.insert(layer.path.clone(), id);
        files.push((file, layer.length_bytes));
        offset_bytes = offset_bytes
            .checked_add(layer.length_bytes)
            .context("the images are too large")?;
    }
    Ok((layers, ids, files))
}

/// The layers of a container, lowest first. One that an image has several times (empty ones, often) is stacked once, where it is
/// topmost: overlayfs takes no directory twice, and what the lower ones show, the topmost shows too.
fn stack(image: &Image, ids: &LayerIds) -> Vec<String> {
    let mut seen = HashSet::new();
    let topmost_first = image.layers.iter().rev().filter(|layer| seen.insert(&layer.path));
    let mut stack: Vec<_> = topmost_first
        .filter_map(|layer| ids.get(&layer.path).cloned())
        .collect();
    stack.reverse();
    stack
}

fn sandbox_request(
    resolved: &ResolvedPod<'_>,
    net: &PodNetwork,
    layers: Vec<Layer>,
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
        volumes: resolved.volumes()?,
        shm_size_bytes: 64 << 20,
        ..Default::default()
    })
}

#[cfg(test)]
mod tests {
    use microkube_image::{ImageConfiguration, Layer};

    use super::*;

    #[test]
    fn a_layer_that_an_image_has_twice_is_stacked_once() {
        let layers = ["empty", "a", "empty", "b", "empty"].map(|name| Layer {
            diff_id: format!("sha256:{name}"),
            path: name.into(),
            length_bytes: 4096,
        });
        let image = Image {
            reference: String::new(),
            id: String::new(),
            manifest_digest: String::new(),
            repo_digest: None,
            config: ImageConfiguration::default(),
            layers: layers.to_vec(),
            size_bytes: 0,
        };
        let ids = ["empty", "a", "b"].map(|name| (PathBuf::from(name), format!("id of {name}")));
        let stacked = stack(&image, &LayerIds::from(ids));
        assert_eq!(stacked, ["id of a", "id of b", "id of empty"]);
    }
}
