//! What a Pod needs before its machine can start: images, address, scratch disk, all fetched or made at the same time, and then put
//! together.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Instant;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Container, Pod};
use microkube_base::lock::lock;
use microkube_image::{Image, ImageError, ImageStore, Progress, PullPolicy, PullSecret};
use microkube_manifest::resources::VmSize;
use microkube_protocol::messages::{CreateSandboxRequest, Layer, NetworkInterface};
use tokio::sync::mpsc;

use super::container_spec::{self, PlanFailure, PlannedContainer};
use super::resolved_pod::ResolvedPod;
use super::supervisor_protocol::{PodNotice, SupervisorFrame};
use super::timings::Stage;
use crate::network::PodNetwork;
use crate::privileged::{LAYERS_DEVICE, PodPrivileges, SCRATCH_DEVICE, VmmRequest};
use crate::state::{Lifetime, Paths, PodRecord, PullSecretRecord};

/// Most layers that a Pod's disk of layers can have: they are its partitions, of which Linux numbers 255 (`DISK_MAX_PARTS`).
const LAYERS_MAX: usize = 255;

/// What a Pod has of the host beside its images.
#[derive(Debug)]
pub struct HostResources {
    net: PodNetwork,
    scratch: std::fs::File,
    /// How long the network took.
    pub stage: Stage,
}

/// Everything that is decided before the machine starts.
#[derive(Debug)]
pub struct Prepared {
    /// The machine to start.
    pub machine: VmmRequest,
    /// Address of the Pod.
    pub pod_ip: String,
    /// Address of the host in the Pod's network.
    pub host_ip: String,
    /// What the agent is asked first.
    pub sandbox_request: CreateSandboxRequest,
    /// What it is asked for every container, or why there is nothing to ask for.
    pub containers: Vec<Result<PlannedContainer, PlanFailure>>,
}

/// The Pod's containers as the lifecycle counts them: init containers first.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers))
}

/// Where the log of a Pod's machine lies, beside its supervisor's. It outlives the Pod.
#[must_use]
pub fn guest_log_path(paths: &Paths, record: &PodRecord) -> PathBuf {
    paths
        .logs()
        .join(format!("{}_{}_{}.log", record.namespace, record.name, record.uid))
}

/// Connects the Pod and makes its scratch disk, or finds both as they were: a Pod whose machine was lost keeps its address and its
/// volumes.
///
/// # Errors
/// The first thing that could not be had. What was had is released with the Pod.
pub async fn host_resources(privileges: &PodPrivileges, record: &PodRecord) -> anyhow::Result<HostResources> {
    let start = Instant::now();
    let network = async {
        let net = privileges.connect().await?;
        anyhow::Ok((net, Stage::since("network", start)))
    };
    // A Pod in the foreground ends with its command line, so at the latest with the host.
    let lifetime = match record.detached {
        true => Lifetime::Pod,
        false => Lifetime::Boot,
    };
    // Both to their ends: what one of them makes cannot be released while it is at it.
    let (network, scratch) = tokio::join!(network, privileges.scratch_disk(lifetime));
    let ((net, stage), scratch) = (network?, scratch?);
    Ok(HostResources { net, scratch, stage })
}

/// The images with so many layers merged that the disk of layers has room for all of them.
///
/// # Errors
/// When there are too many images, or layers cannot be merged.
pub async fn fit_layers(paths: &Paths, images: Vec<Image>) -> anyhow::Result<Vec<Image>> {
    if images.iter().map(|image| image.layers.len()).sum::<usize>() <= LAYERS_MAX {
        return Ok(images);
    }
    let store = ImageStore::open(paths.images())?;
    let fitted = tokio::task::spawn_blocking(move || store.fit(images, LAYERS_MAX));
    Ok(fitted.await??)
}

/// Puts together what is there. `images` has the image of every container.
///
/// # Errors
/// When a layer is gone, or the Pod is impossible as a whole.
pub fn assemble(
    record: &PodRecord,
    images: &[Image],
    resources: HostResources,
    debug: bool,
) -> anyhow::Result<Prepared> {
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
    Ok(Prepared {
        machine,
        pod_ip,
        host_ip,
        sandbox_request,
        containers: planned,
    })
}

/// Makes sure of a container's image. `client` sees the progress.
///
/// # Errors
/// See [`ImageError`].
pub async fn image(
    paths: &Paths,
    container: &Container,
    pull_secrets: &[PullSecretRecord],
    client: Option<mpsc::Sender<SupervisorFrame>>,
) -> Result<Image, ImageError> {
    let pull_secrets: Vec<PullSecret> = pull_secrets
        .iter()
        .map(|secret| PullSecret::new(&secret.name, secret.docker_config_json.clone().into_bytes()))
        .collect();
    let reference = container.image.clone().unwrap_or_default();
    let store = ImageStore::open(paths.images())?;
    let progress = ClientProgress {
        image: reference.clone(),
        client,
        layers: Mutex::default(),
    };
    let image = store
        .ensure(&reference, pull_policy(container), &pull_secrets, &progress)
        .await?;
    if let Some(client) = &progress.client {
        let _ = client.send(PodNotice::Pulled { image: reference }.into()).await;
    }
    Ok(image)
}

/// Whether a registry has to be asked for the container's image.
#[must_use]
pub fn must_be_pulled(paths: &Paths, container: &Container) -> bool {
    match pull_policy(container) {
        PullPolicy::Always => true,
        PullPolicy::Never => false,
        PullPolicy::IfNotPresent => {
            let found = ImageStore::open(paths.images())
                .and_then(|store| store.get(container.image.as_deref().unwrap_or_default()));
            matches!(found, Ok(None))
        }
    }
}

/// The container's `imagePullPolicy`.
#[must_use]
pub fn pull_policy(container: &Container) -> PullPolicy {
    match container.image_pull_policy.as_deref() {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        _ => PullPolicy::IfNotPresent,
    }
}

/// Passes the progress of a pull on to the client, all layers together. A client that does not keep up misses some of it.
#[derive(Debug)]
struct ClientProgress {
    image: String,
    client: Option<mpsc::Sender<SupervisorFrame>>,
    layers: Mutex<HashMap<String, (u64, u64)>>,
}

impl Progress for ClientProgress {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        let Some(client) = &self.client else { return };
        let mut layers = lock(&self.layers);
        layers.insert(digest.to_owned(), (received_bytes, total_bytes));
        let notice = PodNotice::PullProgress {
            image: self.image.clone(),
            received_bytes: layers.values().map(|(received, _)| received).sum(),
            total_bytes: Some(layers.values().map(|(_, total)| total).sum()),
        };
        let _ = client.try_send(notice.into());
    }

    fn layer_done(&self, _digest: &str, _present: bool) {}
}

/// Ids of layers in the sandbox, by file.
type LayerIds = HashMap<PathBuf, String>;

/// The disk of layers: what the agent is told, what containers refer to, and what the VMM is given.
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
