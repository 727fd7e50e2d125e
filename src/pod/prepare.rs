//! What a Pod needs before its machine can start: images, address, scratch disk, all fetched or made at the same time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use microkube_protocol::messages::{CreateSandboxRequest, Layer, NetworkInterface};
use microkube_vmm::config::MAX_VCPU_COUNT;
use tokio::sync::mpsc;

use super::attach::{Frame, Notice};
use super::container_spec;
use super::supervisor::PlannedContainer;
use super::timings::Stage;
use super::virtual_machine::{LAYERS_DEVICE, MachineSpec, SCRATCH_DEVICE};
use crate::image::{Image, ImageStore, Progress, PullPolicy, PullSecret};
use crate::manifest::downward::PodStatusFields;
use crate::manifest::resources::{self, VmSize};
use crate::network::{self, NetworkConfig, PodNetwork};
use crate::state::{Paths, PodRecord, PullSecretRecord};
use crate::volume;

/// Everything that is decided before the machine starts.
#[derive(Debug)]
pub struct Prepared {
    /// The machine to start.
    pub machine: MachineSpec,
    /// Address of the Pod.
    pub pod_ip: String,
    /// What the agent is asked first.
    pub sandbox_request: CreateSandboxRequest,
    /// What it is asked for every container.
    pub containers: Vec<PlannedContainer>,
    /// How long it took.
    pub stages: Vec<Stage>,
}

/// Where the log of a Pod's machine lies. It outlives the Pod.
///
/// # Errors
/// When the directory cannot be made.
pub fn guest_log_path(paths: &Paths, record: &PodRecord) -> anyhow::Result<PathBuf> {
    let dir = paths.logs();
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir.join(format!("{}_{}_{}.log", record.namespace, record.name, record.uid)))
}

/// `terminationGracePeriodSeconds` of the Pod.
#[must_use]
pub fn grace_period(record: &PodRecord) -> Duration {
    let seconds = record
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Prepares a Pod.
///
/// # Errors
/// The first thing that could not be had. What was had is released with the Pod.
pub async fn prepare(
    paths: &Paths,
    record: &PodRecord,
    client: &mpsc::Sender<Frame>,
    debug: bool,
) -> anyhow::Result<Prepared> {
    let spec = record.pod.spec.as_ref().context("the Pod has no spec")?;
    let pull_secrets: Vec<PullSecret> = record.pull_secrets.iter().map(pull_secret).collect();
    // From here until the layers are open, nobody removes them.
    let store = ImageStore::open(paths.images())?;
    let held = tokio::task::spawn_blocking(move || store.hold()).await??;
    let ((images, image_stage), (net, network_stage), scratch) = tokio::try_join!(
        timed("image", images(paths, spec, &pull_secrets, client)),
        timed("network", attach_network(paths, record)),
        scratch_disk(paths, record),
    )?;

    let (layers, layer_ids, layer_files) = lay_out(&images)?;
    drop(held);
    let pod_ip = net.address.to_string();
    let hostname = container_spec::hostname(&record.pod);
    let status = PodStatusFields {
        uid: record.uid.clone(),
        pod_ip: Some(net.address),
        host_ip: Some(net.gateway),
        node_name: nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default(),
    };
    let mut containers = Vec::new();
    for (container, image) in spec.containers.iter().zip(&images) {
        let ids = image
            .layers
            .iter()
            .filter_map(|layer| layer_ids.get(&layer.path).cloned())
            .collect();
        containers.push(container_spec::plan(&record.pod, container, image, ids, &status)?);
    }
    let mut host_cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if crate::machine::is_inside() {
        // The emulated host has one processor for QEMU's sake, not because there is no more.
        host_cpus = host_cpus.max(2);
    }
    let host_cpus = u8::try_from(host_cpus).unwrap_or(u8::MAX).min(MAX_VCPU_COUNT);
    let VmSize {
        vcpu_count,
        mem_size_mib,
    } = resources::vm_size(&record.pod, host_cpus);
    let sandbox_request = sandbox_request(&record.pod, &hostname, &net, layers)?;
    let machine = MachineSpec {
        mem_size_mib,
        vcpu_count,
        scratch,
        layers: layer_files,
        net: Some((net.tap, net.mac)),
        vsock_path: paths.pod_run(&record.uid).join("vsock.sock"),
        debug,
        outlives_supervisor: false,
    };
    Ok(Prepared {
        machine,
        pod_ip,
        sandbox_request,
        containers,
        stages: vec![image_stage, network_stage],
    })
}

async fn timed<T>(name: &str, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<(T, Stage)> {
    let start = Instant::now();
    let result = work.await?;
    Ok((result, Stage::since(name, start)))
}

async fn attach_network(paths: &Paths, record: &PodRecord) -> anyhow::Result<PodNetwork> {
    let config = NetworkConfig::from_env()?;
    Ok(network::attach(&paths.network(), &record.uid, &config).await?)
}

async fn scratch_disk(paths: &Paths, record: &PodRecord) -> anyhow::Result<std::fs::File> {
    let templates = paths.scratch_templates();
    let path = paths.pod_state(&record.uid).join("scratch.img");
    Ok(tokio::task::spawn_blocking(move || volume::create_scratch_disk(&templates, &path)).await??)
}

fn pull_secret(secret: &PullSecretRecord) -> PullSecret {
    PullSecret::new(&secret.name, secret.docker_config_json.clone().into_bytes())
}

/// The image of every container, in order; each image once.
async fn images(
    paths: &Paths,
    spec: &PodSpec,
    pull_secrets: &[PullSecret],
    client: &mpsc::Sender<Frame>,
) -> anyhow::Result<Vec<Image>> {
    let store = ImageStore::open(paths.images())?;
    let mut images: Vec<Image> = Vec::new();
    let mut known: HashMap<(String, PullPolicyKey), usize> = HashMap::new();
    for container in &spec.containers {
        let reference = container.image.clone().unwrap_or_default();
        let key = (reference.clone(), PullPolicyKey::of(container));
        if let Some(index) = known.get(&key)
            && let Some(image) = images.get(*index)
        {
            let image = image.clone();
            images.push(image);
            continue;
        }
        let progress = ClientProgress {
            image: reference.clone(),
            client: client.clone(),
            layers: Mutex::default(),
        };
        let image = store
            .ensure(&reference, key.1.policy(), pull_secrets, &progress)
            .await
            .with_context(|| format!("container {:?}", container.name))?;
        let _ = client.send(Frame::Notice(Notice::Pulled { image: reference })).await;
        known.insert(key, images.len());
        images.push(image);
    }
    Ok(images)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PullPolicyKey {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicyKey {
    fn of(container: &Container) -> Self {
        match container.image_pull_policy.as_deref() {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            _ => Self::IfNotPresent,
        }
    }

    fn policy(self) -> PullPolicy {
        match self {
            Self::Always => PullPolicy::Always,
            Self::IfNotPresent => PullPolicy::IfNotPresent,
            Self::Never => PullPolicy::Never,
        }
    }
}

/// Passes the progress of a pull on to the client, all layers together. A client that does not keep up misses some of it.
#[derive(Debug)]
struct ClientProgress {
    image: String,
    client: mpsc::Sender<Frame>,
    layers: Mutex<HashMap<String, (u64, u64)>>,
}

impl Progress for ClientProgress {
    fn layer_bytes(&self, digest: &str, received_bytes: u64, total_bytes: u64) {
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        layers.insert(digest.to_owned(), (received_bytes, total_bytes));
        let notice = Notice::PullProgress {
            image: self.image.clone(),
            received_bytes: layers.values().map(|(received, _)| received).sum(),
            total_bytes: Some(layers.values().map(|(_, total)| total).sum()),
        };
        let _ = self.client.try_send(Frame::Notice(notice));
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

fn sandbox_request(
    pod: &Pod,
    hostname: &str,
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
        hostname: hostname.to_owned(),
        network: Some(interface).into(),
        etc_hosts: container_spec::etc_hosts(pod, hostname, net.address).into_bytes(),
        etc_resolv_conf: container_spec::etc_resolv_conf(pod)?.into_bytes(),
        etc_hostname: format!("{hostname}\n").into_bytes(),
        scratch_device: SCRATCH_DEVICE.to_owned(),
        layers,
        volumes: container_spec::volumes(pod)?,
        shm_size_bytes: 64 << 20,
        ..Default::default()
    })
}
