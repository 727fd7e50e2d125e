//! The Pod's logical host: everything that containers share, and everything that outlives them.
//!
//! The VM's own net, ipc and uts namespaces are the Pod's. Containers get new namespaces only for mounts, cgroups and,
//! unless they share one, processes.

mod atomic_writer;
mod disk_usage;
mod file_volume;
mod image_volume;
mod layers;
mod sysctls;
mod volume_file;

use std::collections::{HashMap, HashSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use microkube_protocol::SHARES_TAG;
use microkube_protocol::messages::{CreateSandboxRequest, Layer, Volume};
use nix::mount::{MsFlags, mount};
use nix::unistd::{Pid, sethostname};

pub use self::disk_usage::{DiskUsage, Project};
pub use self::file_volume::{FileVolume, WriteError};
pub use self::layers::DeviceTooSmall;
use self::layers::Layers;
pub use self::volume_file::{ReadError, read as read_volume_file};
use crate::container::{Launcher, cgroup};
use crate::lock::lock;
use crate::log;
use crate::network::{self, Interface};
use crate::request_field::{self, InvalidRequest};
use crate::user_namespace::UserNamespace;

const ETC_DIR: &str = "/run/etc";
const SCRATCH_DIR: &str = "/run/scratch";
const SHM_DIR: &str = "/run/shm";
const VOLUMES_DIR: &str = "/run/volumes";
const SHARES_DIR: &str = "/run/shares";

/// The largest read of one FUSE request.
const SHARES_READ_AHEAD_KIB: u32 = 1024;

/// Size of /dev/shm in Kubernetes Pods in bytes (containerd's `defaultShmSize`).
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

/// Mode of an emptyDir volume.
const EMPTY_DIR_MODE: u32 = 0o777;

/// The bits that an fsGroup adds to the mode of a directory in a writable volume.
const FS_GROUP_MODE: u32 = 0o2770;

/// Options of the scratch disk's file system. Without `noinit_itable`, the kernel fills the unused inode tables with
/// zeros as soon as the disk is idle, for minutes and in every Pod. The other two handle a host that can no longer
/// write to the disk because its own disk is full: the file system would become read-only or lose data, and the Pod
/// would continue as if nothing had happened. With these options the VM ends instead, and the host reports why and
/// starts the Pod again.
const SCRATCH_OPTIONS: &str = "noinit_itable,errors=panic,data_err=abort";

/// The resources that the sandbox provides to containers.
#[derive(Debug)]
pub struct Sandbox {
    layers: Mutex<Layers>,
    volumes: HashMap<String, SandboxVolume>,
    /// The usage of the scratch disk, if the disk counts it.
    disk_usage: Option<DiskUsage>,
    /// The first process of the PID namespace that the containers share, if they share one.
    pause: Option<(Pid, OwnedFd)>,
    /// The user namespace of all containers, if they do not run in the VM's.
    user_namespace: Option<UserNamespace>,
    /// The volumes with shared mounts.
    shared: Mutex<HashSet<String>>,
}

#[derive(Debug)]
enum SandboxVolume {
    EmptyDir(PathBuf),
    Files(Arc<FileVolume>),
    /// A file or directory of the host.
    Share(PathBuf),
    /// The files of an image.
    Image(PathBuf),
}

/// A volume as a container mounts it.
#[derive(Debug)]
pub struct MountSource {
    /// The volume's root: a directory, or a file of the host.
    pub path: PathBuf,
    /// Whether all its mounts are read-only.
    pub read_only: bool,
    /// Whether it shows an image.
    pub is_image: bool,
}

/// A request whose fields have been checked.
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
        check_layers(&request.layers)?;
        let mut volumes = std::collections::HashSet::new();
        for volume in &request.volumes {
            request_field::volume_name(&volume.name)?;
            if !volumes.insert(&volume.name) {
                return Err(InvalidRequest::new(
                    "volumes.name",
                    format!("appears twice: {:?}", volume.name),
                ));
            }
            let types = [
                volume.empty_dir.is_some(),
                volume.file_volume.is_some(),
                volume.share.is_some(),
                volume.image.is_some(),
            ];
            if types.into_iter().filter(|is_given| *is_given).count() != 1 {
                return Err(InvalidRequest::new(
                    "volumes",
                    format!("has no type, or several, in {:?}", volume.name),
                ));
            }
            if let Some(image) = volume.image.as_ref() {
                image_volume::check(&image.layer_ids, &request.layers)?;
            }
        }
        sysctls::check(&request.sysctls)?;
        Ok(Self { request, interface })
    }
}

/// Checks a list of layers.
pub fn check_layers(layers: &[Layer]) -> Result<(), InvalidRequest> {
    let mut ids = std::collections::HashSet::new();
    for layer in layers {
        request_field::layer_id(&layer.id)?;
        request_field::device(&layer.device)?;
        if !ids.insert(&layer.id) {
            return Err(InvalidRequest::new(
                "layers.id",
                format!("appears twice: {:?}", layer.id),
            ));
        }
    }
    Ok(())
}

impl Sandbox {
    /// Prepares everything. Called once per VM; if it fails, the VM is unusable.
    pub fn create(checked: &CheckedRequest, launcher: &Launcher) -> Result<Self> {
        let CheckedRequest { request, interface } = checked;
        let user_namespace = match request.user_namespace {
            true => Some(UserNamespace::create(&launcher.reaper)?),
            false => None,
        };
        if let Some(namespace) = &user_namespace {
            if let Some(interface) = interface {
                network::hand_over(interface, namespace.network())?;
            }
            namespace.enter_others()?;
        }
        sethostname(&request.hostname).with_context(|| format!("cannot set the host name {:?}", request.hostname))?;
        network::configure(interface.as_ref())?;
        sysctls::apply(&request.sysctls)?;
        write_etc_files(request)?;
        cgroup::create_parent()?;
        for directory in [layers::LAYERS_DIR, SCRATCH_DIR, VOLUMES_DIR] {
            fs::create_dir(directory).with_context(|| format!("cannot create {directory}"))?;
        }
        let shm_size_bytes = match request.shm_size_bytes {
            0 => DEFAULT_SHM_BYTES,
            size => size,
        };
        mount_tmpfs(Path::new(SHM_DIR), shm_size_bytes, "mode=1777").context("cannot create /dev/shm")?;
        mount_scratch(&request.scratch_device)?;
        let mut layers = Layers::default();
        layers.add(&request.layers)?;
        let mut disk_usage = DiskUsage::open(Path::new(SCRATCH_DIR))
            .inspect_err(|error| log::info!("the usage of the scratch disk is not counted: {error}"))
            .ok();
        let mut volumes = HashMap::new();
        if request.volumes.iter().any(|volume| volume.share.is_some()) {
            mount_shares()?;
        }
        for (position, volume) in request.volumes.iter().enumerate() {
            let made = match volume.image.as_ref() {
                Some(image) => {
                    let path = Path::new(VOLUMES_DIR).join(&volume.name);
                    let user_namespace = user_namespace.as_ref().map(UserNamespace::as_fd);
                    image_volume::mount(&path, &layers.all_mounted(&image.layer_ids), user_namespace)
                        .map(|()| SandboxVolume::Image(path))
                }
                None => make_volume(position, volume, disk_usage.as_mut()),
            };
            let made = made.with_context(|| format!("cannot create the volume {:?}", volume.name))?;
            volumes.insert(volume.name.clone(), made);
        }
        let pause = match request.share_process_namespace {
            true => Some(launcher.start_pause(user_namespace.as_ref().map(UserNamespace::as_fd))?),
            false => None,
        };
        Ok(Self {
            layers: Mutex::new(layers),
            volumes,
            disk_usage,
            pause,
            user_namespace,
            shared: Mutex::default(),
        })
    }

    /// Adds layers that [`check_layers`] has accepted.
    pub fn add_layers(&self, layers: &[Layer]) -> Result<()> {
        lock(&self.layers).add(layers)
    }

    /// Where a layer is mounted.
    pub fn layer(&self, id: &str) -> Result<PathBuf, InvalidRequest> {
        let path = lock(&self.layers).mounted(id);
        path.ok_or_else(|| InvalidRequest::new("layer_ids", format!("names an unknown layer: {id:?}")))
    }

    /// A volume to mount.
    pub fn mount_source(&self, name: &str) -> Result<MountSource, InvalidRequest> {
        let problem = match self.volumes.get(name) {
            Some(SandboxVolume::EmptyDir(path) | SandboxVolume::Share(path)) => {
                return Ok(MountSource {
                    path: path.clone(),
                    read_only: false,
                    is_image: false,
                });
            }
            Some(SandboxVolume::Image(path)) => {
                return Ok(MountSource {
                    path: path.clone(),
                    read_only: true,
                    is_image: true,
                });
            }
            Some(SandboxVolume::Files(volume)) if volume.is_written() => {
                return Ok(MountSource {
                    path: volume.directory().to_owned(),
                    read_only: true,
                    is_image: false,
                });
            }
            Some(SandboxVolume::Files(_)) => "names a volume whose files have not been written yet",
            None => "names an unknown volume",
        };
        Err(InvalidRequest::new("mounts.volume", format!("{problem}: {name:?}")))
    }

    /// From now on, propagates mounts in an emptyDir volume to the containers that mount it, as their `propagation`
    /// allows.
    pub fn share_mounts(&self, name: &str) -> Result<()> {
        let Some(SandboxVolume::EmptyDir(directory)) = self.volumes.get(name) else {
            return Ok(());
        };
        let mut shared = lock(&self.shared);
        if !shared.contains(name) {
            // Only a mount can propagate, so mount the directory on itself.
            mount(Some(directory), directory, None::<&str>, MsFlags::MS_BIND, None::<&str>)
                .and_then(|()| mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED, None::<&str>))
                .with_context(|| format!("cannot share the mounts in the volume {name:?}"))?;
            shared.insert(name.to_owned());
        }
        Ok(())
    }

    /// The root of an emptyDir volume.
    pub fn empty_dir(&self, name: &str) -> Result<PathBuf, InvalidRequest> {
        match self.volumes.get(name) {
            Some(SandboxVolume::EmptyDir(directory)) => Ok(directory.clone()),
            _ => Err(InvalidRequest::new("volume", format!("is not an emptyDir: {name:?}"))),
        }
    }

    /// A volume whose files the host sends.
    pub fn file_volume(&self, name: &str) -> Result<Arc<FileVolume>, InvalidRequest> {
        match self.volumes.get(name) {
            Some(SandboxVolume::Files(volume)) => Ok(Arc::clone(volume)),
            _ => Err(InvalidRequest::new("volume", format!("is not a file volume: {name:?}"))),
        }
    }

    /// The first process of the PID namespace that all containers share, if they share one: its PID and its pidfd.
    pub fn pause(&self) -> Option<(Pid, BorrowedFd<'_>)> {
        self.pause.as_ref().map(|(pid, pidfd)| (*pid, pidfd.as_fd()))
    }

    /// The user namespace of all containers, if they do not run in the VM's.
    pub fn user_namespace(&self) -> Option<BorrowedFd<'_>> {
        self.user_namespace.as_ref().map(UserNamespace::as_fd)
    }

    /// The directory with hosts, resolv.conf and hostname.
    pub fn etc_dir(&self) -> PathBuf {
        ETC_DIR.into()
    }

    pub fn shm_dir(&self) -> PathBuf {
        SHM_DIR.into()
    }

    /// The usage of the scratch disk, if the disk counts it.
    pub fn disk_usage(&self) -> Option<&DiskUsage> {
        self.disk_usage.as_ref()
    }

    /// The directory for the files of one container.
    pub fn container_dir(&self, container_id: &str) -> PathBuf {
        Path::new(SCRATCH_DIR).join("containers").join(container_id)
    }
}

fn write_etc_files(request: &CreateSandboxRequest) -> Result<()> {
    fs::create_dir(ETC_DIR).with_context(|| format!("cannot create {ETC_DIR}"))?;
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

/// Writes everything in the guest's memory to the scratch disk.
pub fn sync_scratch() -> Result<()> {
    let context = || format!("cannot sync {SCRATCH_DIR}");
    let directory = fs::File::open(SCRATCH_DIR).with_context(context)?;
    nix::unistd::syncfs(&directory).with_context(context)
}

fn mount_scratch(device: &str) -> Result<()> {
    if device.is_empty() {
        mount_tmpfs(Path::new(SCRATCH_DIR), 0, "mode=0755").context("cannot create the scratch directory")?;
    } else {
        let source = Path::new("/dev").join(device);
        let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODIRATIME;
        mount(Some(&source), SCRATCH_DIR, Some("ext4"), flags, Some(SCRATCH_OPTIONS))
            .with_context(|| format!("cannot mount the scratch disk {}", source.display()))?;
    }
    // The disk may come from a previous VM that was lost. The containers' own file systems are gone with that VM;
    // volumes stay.
    let containers = Path::new(SCRATCH_DIR).join("containers");
    match fs::remove_dir_all(&containers) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot empty {}", containers.display()));
        }
        _ => {}
    }
    for path in [containers, Path::new(SCRATCH_DIR).join("volumes")] {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
    }
    Ok(())
}

/// Mounts the VM's virtio-fs device, which has a directory or file for each share.
fn mount_shares() -> Result<()> {
    fs::create_dir(SHARES_DIR).with_context(|| format!("cannot create {SHARES_DIR}"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some(SHARES_TAG), SHARES_DIR, Some("virtiofs"), flags, None::<&str>)
        .context("cannot mount the files of the host")?;
    read_ahead_in_shares().context("cannot set how much of the host's files is read ahead")
}

/// Lets the kernel read ahead as much as fits into one request, because each costs a round trip to the host. Linux reads
/// ahead 128 KiB by default. Shares below the mount use the same setting.
fn read_ahead_in_shares() -> Result<()> {
    let device = fs::metadata(SHARES_DIR)?.dev();
    let setting = format!(
        "/sys/class/bdi/{}:{}/read_ahead_kb",
        libc::major(device),
        libc::minor(device)
    );
    fs::write(&setting, SHARES_READ_AHEAD_KIB.to_string()).with_context(|| setting)
}

/// Makes the volume with this position in the request.
fn make_volume(position: usize, volume: &Volume, disk_usage: Option<&mut DiskUsage>) -> Result<SandboxVolume> {
    if volume.share.is_some() {
        return Ok(SandboxVolume::Share(Path::new(SHARES_DIR).join(&volume.name)));
    }
    if let Some(file_volume) = volume.file_volume.as_ref() {
        let path = Path::new(VOLUMES_DIR).join(&volume.name);
        // Each volume has its own file system, so a file handle of one (open_by_handle_at(2)) opens nothing of another.
        // Files that do not fit into half of the memory are an error, because the kernel would otherwise have to kill
        // processes.
        mount_tmpfs(&path, 0, &file_volume_options(file_volume.fs_group))?;
        let volume = FileVolume::new(path, file_volume.fs_group);
        return Ok(SandboxVolume::Files(Arc::new(volume)));
    }
    let empty_dir = volume.empty_dir.get_or_default();
    let path = match empty_dir.memory {
        true => Path::new(VOLUMES_DIR).join(&volume.name),
        false => Path::new(SCRATCH_DIR).join("volumes").join(&volume.name),
    };
    if empty_dir.memory {
        mount_tmpfs(&path, empty_dir.size_limit_bytes, "mode=0777")?;
    } else {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        if let Some(disk_usage) = disk_usage {
            disk_usage.add_volume(position, &volume.name, &path)?;
        }
    }
    open_to_containers(&path, empty_dir.fs_group)?;
    Ok(SandboxVolume::EmptyDir(path))
}

/// Lets every user write to an emptyDir volume (`setupDir` in `pkg/volume/emptydir`), and gives it to the fsGroup. Like
/// the kubelet (`SetVolumeOwnership` in `pkg/volume/volume_linux.go`), does so when the volume is created and empty;
/// the set-group-ID bit gives the group to files that containers create.
fn open_to_containers(path: &Path, fs_group: Option<u32>) -> Result<()> {
    let mut mode = EMPTY_DIR_MODE;
    if fs_group.is_some() {
        chown(path, None, fs_group).with_context(|| format!("cannot change the group of {}", path.display()))?;
        mode |= FS_GROUP_MODE;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", path.display()))
}

/// The options of a file volume's tmpfs. The kubelet mounts it with the kernel's default mode, and an fsGroup adds the
/// set-group-ID bit, so that links inherit the group.
fn file_volume_options(fs_group: Option<u32>) -> String {
    match fs_group {
        Some(gid) => format!("mode=3777,gid={gid}"),
        None => "mode=1777".to_owned(),
    }
}

/// Mounts a tmpfs. A size of 0 means the kernel's default limit of half the memory.
fn mount_tmpfs(path: &Path, size_bytes: u64, options: &str) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))?;
    let options = match size_bytes {
        0 => options.to_owned(),
        size_bytes => format!("{options},size={size_bytes}"),
    };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, Some(options.as_str()))
        .with_context(|| format!("cannot mount a tmpfs with {options} on {}", path.display()))
}

#[cfg(test)]
mod tests {
    use microkube_protocol::messages::{
        EmptyDir, FileVolume as FileVolumeRequest, ImageVolume, Layer, Share, Sysctl, WriteFileVolumeRequest,
    };

    use super::*;
    use crate::test_directory::TestDirectory;

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

    fn image_volume(layer: &str) -> Volume {
        Volume {
            name: "model".to_owned(),
            image: Some(ImageVolume {
                layer_ids: vec![layer.to_owned()],
                ..Default::default()
            })
            .into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_complete_request_is_accepted() {
        assert!(CheckedRequest::new(request()).is_ok());
        let mut request = request();
        request.volumes.push(image_volume("a1"));
        assert!(CheckedRequest::new(request).is_ok());
    }

    #[test]
    fn invalid_requests_are_refused() {
        for break_it in [
            (|r| r.hostname = "a b".to_owned()) as fn(&mut CreateSandboxRequest),
            |r| r.scratch_device = "../sda".to_owned(),
            |r| r.layers[0].id = "..".to_owned(),
            |r| r.layers[0].device = "vda/../x".to_owned(),
            |r| r.layers.push(r.layers[0].clone()),
            |r| r.volumes.push(r.volumes[0].clone()),
            |r| r.volumes[0].name = "a/b".to_owned(),
            |r| r.volumes[0].empty_dir = None.into(),
            |r| r.volumes[0].file_volume = Some(FileVolumeRequest::default()).into(),
            |r| r.volumes[0].share = Some(Share::default()).into(),
            |r| r.volumes[0].image = Some(ImageVolume::default()).into(),
            |r| r.volumes[0] = image_volume("b2"),
            |r| r.sysctls = vec![Sysctl::default()],
        ] {
            let mut request = request();
            break_it(&mut request);
            assert!(CheckedRequest::new(request).is_err());
        }
    }

    #[test]
    fn an_empty_dir_is_writable_for_all_users_and_belongs_to_the_fs_group() {
        let directory = TestDirectory::new("sandbox-empty-dir");
        let mode = || fs::metadata(directory.path()).unwrap().permissions().mode() & 0o7777;
        open_to_containers(directory.path(), None).unwrap();
        assert_eq!(mode(), 0o777);
        // Everyone may give a file to one of their groups.
        let own = nix::unistd::getgid().as_raw();
        open_to_containers(directory.path(), Some(own)).unwrap();
        assert_eq!(mode(), 0o2777);
    }

    #[test]
    fn a_file_volume_is_mounted_read_only_once_it_has_files() {
        let directory = TestDirectory::new("sandbox-file-volume");
        let files = Arc::new(FileVolume::new(directory.path().to_owned(), None));
        let volumes = [
            ("config", SandboxVolume::Files(Arc::clone(&files))),
            ("data", SandboxVolume::EmptyDir("/run/volumes/data".into())),
            ("model", SandboxVolume::Image("/run/volumes/model".into())),
        ];
        let sandbox = Sandbox {
            layers: Mutex::default(),
            volumes: volumes.map(|(name, volume)| (name.to_owned(), volume)).into(),
            disk_usage: None,
            pause: None,
            user_namespace: None,
            shared: Mutex::default(),
        };
        assert!(!sandbox.mount_source("data").unwrap().read_only);
        let image = sandbox.mount_source("model").unwrap();
        assert!(image.read_only && image.is_image);
        assert!(sandbox.file_volume("data").is_err());
        assert_eq!(
            sandbox.mount_source("config").unwrap_err().to_string(),
            "mounts.volume names a volume whose files have not been written yet: \"config\""
        );
        let request = WriteFileVolumeRequest {
            last: true,
            ..Default::default()
        };
        sandbox.file_volume("config").unwrap().receive(request).unwrap();
        let mounted = sandbox.mount_source("config").unwrap();
        assert!(mounted.read_only && !mounted.is_image);
        assert_eq!(mounted.path, directory.path());
    }
}
