//! The Pod's logical host: what all containers share and what outlives them.
//!
//! The VM's own net, ipc and uts namespaces are the Pod's; containers get new ones only for mounts, processes and cgroups.

mod layers;

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use microkube_protocol::messages::{CreateSandboxRequest, Volume};
use nix::mount::{MsFlags, mount};
use nix::unistd::sethostname;

use crate::container::cgroup;
use crate::network::{self, Interface};
use crate::request_field::{self, InvalidRequest};

const ETC_DIR: &str = "/run/etc";
const SCRATCH_DIR: &str = "/run/scratch";
const SHM_DIR: &str = "/run/shm";
const VOLUMES_DIR: &str = "/run/volumes";

/// /dev/shm of Kubernetes Pods (containerd's `defaultShmSize`), bytes.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// Options of the scratch disk's file system. Without `noinit_itable` the kernel fills the unused inode tables with zeros, for minutes and in
/// every Pod, as soon as nobody uses the disk. When the host cannot write it any more (its own disk is full), the file system would become
/// read-only, or lose what containers wrote, and the Pod go on as if nothing had happened: so the machine ends, and the host says why and starts
/// the Pod again.
const SCRATCH_OPTIONS: &str = "noinit_itable,errors=panic,data_err=abort";

/// What containers find in the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    layers: HashMap<String, PathBuf>,
    volumes: HashMap<String, PathBuf>,
}

/// A request whose fields were checked.
#[derive(Debug)]
pub struct CheckedRequest {
    request: CreateSandboxRequest,
    interface: Option<Interface>,
}

impl CheckedRequest {
    /// Checks the host's request.
    pub fn new(request: CreateSandboxRequest) -> Result<Self, InvalidRequest> {
        request_field::hostname(&request.hostname)?;
        if !request.scratch_device.is_empty() {
            request_field::device(&request.scratch_device)?;
        }
        let interface = request.network.as_ref().map(Interface::parse).transpose()?;
        let mut layers = std::collections::HashSet::new();
        for layer in &request.layers {
            request_field::layer_id(&layer.id)?;
            request_field::device(&layer.device)?;
            if !layers.insert(&layer.id) {
                return Err(InvalidRequest::new(
                    "layers.id",
                    format!("appears twice: {:?}", layer.id),
                ));
            }
        }
        let mut volumes = std::collections::HashSet::new();
        for volume in &request.volumes {
            request_field::volume_name(&volume.name)?;
            if !volumes.insert(&volume.name) {
                return Err(InvalidRequest::new(
                    "volumes.name",
                    format!("appears twice: {:?}", volume.name),
                ));
            }
            if volume.empty_dir.is_none() {
                return Err(InvalidRequest::new(
                    "volumes.empty_dir",
                    format!("is missing in {:?}", volume.name),
                ));
            }
        }
        Ok(Self { request, interface })
    }
}

impl Sandbox {
    /// Prepares everything. Once per VM; after a failure the VM is of no use.
    pub fn create(checked: &CheckedRequest) -> Result<Self> {
        let CheckedRequest { request, interface } = checked;
        sethostname(&request.hostname).with_context(|| format!("cannot set the host name {:?}", request.hostname))?;
        network::configure(interface.as_ref())?;
        write_etc_files(request)?;
        cgroup::create_parent()?;
        for directory in [layers::LAYERS_DIR, SCRATCH_DIR, VOLUMES_DIR] {
            fs::create_dir(directory).with_context(|| format!("cannot make {directory}"))?;
        }
        let shm_size_bytes = match request.shm_size_bytes {
            0 => DEFAULT_SHM_BYTES,
            size => size,
        };
        mount_tmpfs(Path::new(SHM_DIR), shm_size_bytes, "1777").context("cannot make /dev/shm")?;
        mount_scratch(&request.scratch_device)?;
        let mut partitions = layers::Partitions::default();
        let mut layers = HashMap::new();
        for layer in &request.layers {
            layers.insert(layer.id.clone(), layers::mount_layer(layer, &mut partitions)?);
        }
        let mut volumes = HashMap::new();
        for volume in &request.volumes {
            let path = make_volume(volume).with_context(|| format!("cannot make the volume {:?}", volume.name))?;
            volumes.insert(volume.name.clone(), path);
        }
        Ok(Self { layers, volumes })
    }

    /// Where a layer is mounted.
    pub fn layer(&self, id: &str) -> Result<PathBuf, InvalidRequest> {
        let path = self.layers.get(id).cloned();
        path.ok_or_else(|| InvalidRequest::new("layer_ids", format!("names a layer the sandbox does not have: {id:?}")))
    }

    /// Where a volume is.
    pub fn volume(&self, name: &str) -> Result<PathBuf, InvalidRequest> {
        let path = self.volumes.get(name).cloned();
        path.ok_or_else(|| InvalidRequest::new("mounts.volume", format!("is not a volume of the sandbox: {name:?}")))
    }

    /// The directory with hosts, resolv.conf and hostname.
    pub fn etc_dir(&self) -> PathBuf {
        ETC_DIR.into()
    }

    /// The Pod's /dev/shm.
    pub fn shm_dir(&self) -> PathBuf {
        SHM_DIR.into()
    }

    /// The directory for what is a container's alone.
    pub fn container_dir(&self, container_id: &str) -> PathBuf {
        Path::new(SCRATCH_DIR).join("containers").join(container_id)
    }
}

fn write_etc_files(request: &CreateSandboxRequest) -> Result<()> {
    fs::create_dir(ETC_DIR).with_context(|| format!("cannot make {ETC_DIR}"))?;
    let files = [
        ("hosts", &request.etc_hosts),
        ("resolv.conf", &request.etc_resolv_conf),
        ("hostname", &request.etc_hostname),
    ];
    for (name, content) in files {
        let path = Path::new(ETC_DIR).join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn mount_scratch(device: &str) -> Result<()> {
    if device.is_empty() {
        mount_tmpfs(Path::new(SCRATCH_DIR), 0, "0755").context("cannot make the scratch directory")?;
    } else {
        let source = Path::new("/dev").join(device);
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
        mount(Some(&source), SCRATCH_DIR, Some("ext4"), flags, Some(SCRATCH_OPTIONS))
            .with_context(|| format!("cannot mount the scratch disk {}", source.display()))?;
    }
    // The disk may be one that a machine before this one was lost with: what containers wrote to their own file systems went with
    // them, volumes stay.
    let containers = Path::new(SCRATCH_DIR).join("containers");
    match fs::remove_dir_all(&containers) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", containers.display()));
        }
        _ => {}
    }
    for path in [containers, Path::new(SCRATCH_DIR).join("volumes")] {
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    Ok(())
}

fn make_volume(volume: &Volume) -> Result<PathBuf> {
    let (memory, size_limit_bytes) = volume
        .empty_dir
        .as_ref()
        .map_or((false, 0), |empty_dir| (empty_dir.memory, empty_dir.size_limit_bytes));
    if memory {
        let path = Path::new(VOLUMES_DIR).join(&volume.name);
        mount_tmpfs(&path, size_limit_bytes, "0777")?;
        return Ok(path);
    }
    let path = Path::new(SCRATCH_DIR).join("volumes").join(&volume.name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    // As the kubelet's emptyDir (pkg/volume/emptydir): any user of the container may write.
    fs::set_permissions(&path, Permissions::from_mode(0o777)).context("cannot open it for all users")?;
    Ok(path)
}

/// A size of 0 leaves the kernel's limit of half the memory.
fn mount_tmpfs(path: &Path, size_bytes: u64, mode: &str) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    let options = match size_bytes {
        0 => format!("mode={mode}"),
        size_bytes => format!("mode={mode},size={size_bytes}"),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("cannot mount a tmpfs with {options} on {}", path.display()))
}

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::{EmptyDir, Layer};

    use super::*;

    fn request() -> CreateSandboxRequest {
        CreateSandboxRequest {
            hostname: "web".to_owned(),
            layers: vec![Layer {
                id: "a1".to_owned(),
                device: "vda".to_owned(),
                ..Default::default()
            }],
            volumes: vec![Volume {
                name: "data".to_owned(),
                empty_dir: Some(EmptyDir::default()).into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_complete_request_is_taken() {
        assert!(CheckedRequest::new(request()).is_ok());
    }

    #[test]
    fn what_cannot_be_made_is_refused() {
        for break_it in [
            (|r| r.hostname = "a b".to_owned()) as fn(&mut CreateSandboxRequest),
            |r| r.scratch_device = "../sda".to_owned(),
            |r| r.layers[0].id = "..".to_owned(),
            |r| r.layers[0].device = "vda/../x".to_owned(),
            |r| r.layers.push(r.layers[0].clone()),
            |r| r.volumes.push(r.volumes[0].clone()),
            |r| r.volumes[0].name = "a/b".to_owned(),
            |r| r.volumes[0].empty_dir = None.into(),
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(CheckedRequest::new(request).is_err());
        }
    }
}
