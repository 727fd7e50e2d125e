//! Everything for which a supervisor needs root, behind one interface. It can later become a separate process, so that
//! the rest of the supervisor runs as an ordinary user.
//!
//! Requests and answers are data: names, numbers, and descriptors, which can be sent over a socket. They do not refer
//! to a supervisor's memory, and every error has a type.
//!
//! | operation | privileges | released by |
//! |---|---|---|
//! | [`PodPrivileges::connect`] | `CAP_NET_ADMIN` (bridge, TAP, nftables, sysctls), root's files (leases) | [`PodPrivileges::release`]; the TAP with its last descriptor |
//! | [`PodPrivileges::scratch_disk`] | root's files | [`PodPrivileges::release`] |
//! | [`PodPrivileges::share_host_path`] | root's files, `CAP_SYS_ADMIN` (the clone of a mount) | the descriptor |
//! | [`PodPrivileges::share_claim_disk`] | root's files, `CAP_SYS_ADMIN` (loop devices, mounts), `CAP_CHOWN` and `CAP_FOWNER` (`fsGroup`) | the descriptor |
//! | [`PodPrivileges::start_vmm`] | `/dev/kvm`, root's files; what the VMM's jail and the file server's give up: `CAP_SYS_ADMIN`, `CAP_SYS_CHROOT`, `CAP_SETPCAP`, `CAP_SETUID`, `CAP_SETGID` | the VMM's end, which ends the file server as well; its socket by [`PodPrivileges::release`] |
//! | [`PodPrivileges::connect_vmm`] | root's files | the descriptor |
//! | [`PodPrivileges::kill_vmm`], [`PodPrivileges::end_vmms`] | `CAP_KILL`: a VMM runs as another user | |
//! | [`PodPrivileges::release`] | `CAP_NET_ADMIN`, root's files | |
//! | [`Privileges::sweep`] | `CAP_NET_ADMIN`, root's files | |
//! | [`Privileges::claim_disks`], [`Privileges::create_claim_disk`], [`Privileges::grow_claim_disk`], [`Privileges::delete_claim_disk`] | root's files, `CAP_SYS_ADMIN`, `CAP_SYS_RESOURCE` (growing a file system) | the disk's deletion |
//! | [`Privileges::try_scratch_disk`] | root's files | itself |
//!
//! A supervisor will not be trusted, because its guest may have taken control of it. It only gets [`PodPrivileges`],
//! which are limited to one Pod:
//! - No caller names a TAP, an address, a user, or a path, except the path of a hostPath volume, which must be one of
//!   those that the configuration allows, and the names of the disks of its claims. All else follows from the Pod's UID, which is checked once
//!   ([`Privileges::of_pod`]), and from this host's configuration.
//! - Files in the Pod's directories are opened without following symbolic links, and only if they are of the expected
//!   type.
//! - A process is signalled only if it is a VMM.
//! - Which Pods are gone is determined here, not by the caller.
//! - A descriptor needs no check, because the caller could use it itself. Only the jailed VMM uses a VMM's descriptors.
//!
//! This module excludes everything that needs no privileges (records, logs, the image store, the agent, probes),
//! decisions about a Pod's life, and waiting for the guest. Cgroups on the host belong here; there are none yet.

pub mod artifacts;
#[cfg(test)]
pub(crate) mod fake_vmm;
mod file_server;
mod vmm;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microkube_manifest::names;

use crate::network::{self, NetworkConfig, NetworkError, PodNetwork};
use crate::state::{Paths, ProcessIdentity};
use crate::volume::{
    self, AllowedHostPaths, ChangePolicy, ClaimDiskError, ClaimDiskSize, ClaimDisks, HostPathError, HostPathType,
    Lifetime, ScratchError,
};

pub use file_server::{FileServerError, Share};
pub use vmm::{LAYERS_DEVICE, SCRATCH_DEVICE, StartedVmm, VmmError, VmmRequest};

/// The privileged operations of this host.
#[derive(Debug, Clone)]
pub struct Privileges {
    paths: Paths,
}

/// A string that is not a valid Pod UID.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" cannot be a Pod's uid: it must be 1 to 63 letters, digits and dashes")]
pub struct BadPodUid(String);

impl Privileges {
    /// For the resources that belong to these directories.
    #[must_use]
    pub fn new(paths: &Paths) -> Self {
        Self { paths: paths.clone() }
    }

    /// The operations for one Pod.
    ///
    /// # Errors
    /// [`BadPodUid`]. The UID becomes part of paths and names.
    pub fn of_pod(&self, uid: &str) -> Result<PodPrivileges, BadPodUid> {
        if !network::is_pod_uid(uid) {
            return Err(BadPodUid(uid.to_owned()));
        }
        Ok(PodPrivileges {
            paths: self.paths.clone(),
            uid: uid.to_owned(),
        })
    }

    /// Releases the addresses of Pods whose directories are gone.
    ///
    /// # Errors
    /// The first address that cannot be released.
    pub async fn sweep(&self) -> Result<(), NetworkError> {
        let has_pod = |uid: &str| self.paths.pod_state(uid).exists() || self.paths.pod_run(uid).exists();
        network::sweep(&self.paths.network(), has_pod).await?;
        Ok(())
    }

    /// The disks of PersistentVolumes. Blocks, like all operations on them.
    ///
    /// # Errors
    /// If a disk cannot be read.
    pub fn claim_disks(&self) -> Result<BTreeMap<String, ClaimDiskSize>, ClaimDiskError> {
        ClaimDisks::new(&self.paths.volumes()).list()
    }

    /// Creates a disk with an empty file system. An existing disk stays as it is.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn create_claim_disk(&self, name: &str, bytes: u64) -> Result<(), ClaimDiskError> {
        check_disk_name(name)?;
        ClaimDisks::new(&self.paths.volumes()).create(name, bytes)
    }

    /// Makes a disk larger, also while Pods use it.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn grow_claim_disk(&self, name: &str, bytes: u64) -> Result<(), ClaimDiskError> {
        check_disk_name(name)?;
        ClaimDisks::new(&self.paths.volumes()).grow(name, bytes)
    }

    /// Deletes a disk. Its space is free when no Pod has it any more.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn delete_claim_disk(&self, name: &str) -> Result<(), ClaimDiskError> {
        check_disk_name(name)?;
        ClaimDisks::new(&self.paths.volumes()).delete(name)
    }

    /// Creates a scratch disk that belongs to no Pod, and removes it.
    ///
    /// # Errors
    /// See [`ScratchError`].
    pub fn try_scratch_disk(&self) -> Result<(), ScratchError> {
        let path = self
            .paths
            .state_dir()
            .join(format!(".doctor-{}.img", std::process::id()));
        volume::create_scratch_disk(&self.paths.scratch_templates(), &path, Lifetime::Boot)?;
        volume::remove_scratch_disk(&path).map_err(|source| ScratchError::Remove { path, source })
    }
}

/// The group that gets a volume's files, and when (`fsGroup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeGroup {
    pub id: u32,
    pub policy: ChangePolicy,
}

/// Checks the name of a disk, which becomes the name of a file.
fn check_disk_name(name: &str) -> Result<(), ClaimDiskError> {
    match names::dns_subdomain(name).is_empty() {
        true => Ok(()),
        false => Err(ClaimDiskError::Name(name.to_owned())),
    }
}

/// The privileged operations for one Pod.
#[derive(Debug, Clone)]
pub struct PodPrivileges {
    paths: Paths,
    /// Only letters, digits and dashes.
    uid: String,
}

/// A resource of a Pod could not be released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Its address or its nftables rules.
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error("cannot remove {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ReleaseError {
    /// The file or directory that the error is about, if any.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Network(error) => error.path(),
            Self::File { path, .. } => Some(path),
        }
    }
}

impl PodPrivileges {
    /// Connects the Pod: leases an address, and creates a TAP that is guarded against spoofing. A Pod that has an
    /// address keeps it.
    ///
    /// # Errors
    /// See [`NetworkError`]. Nothing is left behind after an error.
    pub async fn connect(&self) -> Result<PodNetwork, NetworkError> {
        let config = NetworkConfig::from_env()?;
        network::connect(&self.paths.network(), &self.uid, &config).await
    }

    /// The Pod's scratch disk; created if there is none.
    ///
    /// # Errors
    /// See [`ScratchError`].
    pub async fn scratch_disk(&self, lifetime: Lifetime) -> Result<std::fs::File, ScratchError> {
        let (templates, path) = (self.paths.scratch_templates(), self.scratch_path());
        let made = tokio::task::spawn_blocking({
            let path = path.clone();
            move || match volume::open_scratch_disk(&path)? {
                Some(disk) => Ok(disk),
                None => volume::create_scratch_disk(&templates, &path, lifetime),
            }
        });
        made.await.unwrap_or_else(|error| {
            Err(ScratchError::Io {
                action: "create",
                path,
                source: error.into(),
            })
        })
    }

    /// A share of a file or directory of the host, for [`VmmRequest::shares`]. Blocks.
    ///
    /// # Errors
    /// See [`HostPathError`]; for example, the configuration does not allow the path.
    pub fn share_host_path(
        &self,
        volume: &str,
        path: &Path,
        kind: HostPathType,
        read_only: bool,
    ) -> Result<Share, HostPathError> {
        let allowed = AllowedHostPaths::of_environment().map_err(HostPathError::Setting)?;
        let opened = volume::open_host_path(path, kind, &allowed)?;
        Ok(Share {
            name: volume.to_owned(),
            read_only,
            root: volume::clone_for_share(&opened, path, read_only)?,
        })
    }

    /// A share of a PersistentVolume's disk, for [`VmmRequest::shares`]: mounts the disk, and gives its files to a group.
    /// Blocks.
    ///
    /// # Errors
    /// See [`ClaimDiskError`].
    pub fn share_claim_disk(
        &self,
        volume: &str,
        disk: &str,
        read_only: bool,
        group: Option<VolumeGroup>,
    ) -> Result<Share, ClaimDiskError> {
        check_disk_name(disk)?;
        let root = ClaimDisks::new(&self.paths.volumes()).mount(disk, read_only)?;
        if let Some(VolumeGroup { id, policy }) = group.filter(|_| !read_only) {
            volume::give_to_group(&root, id, policy).map_err(|source| ClaimDiskError::Group {
                group: id,
                disk: disk.to_owned(),
                source,
            })?;
        }
        Ok(Share {
            name: volume.to_owned(),
            read_only,
            root,
        })
    }

    /// Starts the Pod's VMM. It dies with this process unless the request says that it outlives its supervisor.
    ///
    /// # Errors
    /// See [`VmmError`]. Errors of the VM itself are among the VMM's events.
    pub async fn start_vmm(&self, mut request: VmmRequest) -> Result<StartedVmm, VmmError> {
        let shares = std::mem::take(&mut request.shares);
        let file_server = match shares.is_empty() {
            true => None,
            false => {
                let (maps_users, mem_size_mib) = (request.maps_users, request.mem_size_mib);
                let start = move || file_server::start(shares, maps_users, mem_size_mib);
                let started = tokio::task::spawn_blocking(start).await;
                Some(started.unwrap_or_else(|error| Err(file_server::ended(error)))?)
            }
        };
        // Not in another thread, because the VMM dies with the thread that has started it.
        vmm::start(&self.uid, &self.vmm_socket(), request, file_server)
    }

    /// Connects to the Pod's VMM, for a supervisor that has not started it.
    ///
    /// # Errors
    /// [`VmmError::Connect`] if no process listens.
    pub async fn connect_vmm(&self) -> Result<OwnedFd, VmmError> {
        vmm::connect(&self.vmm_socket())
    }

    /// Kills a VMM of the Pod and waits up to `patience` for it to end. Returns whether it has ended.
    ///
    /// # Errors
    /// [`VmmError::NotOfPod`] for another process, [`VmmError::Process`] if the kernel returns an error.
    pub async fn kill_vmm(&self, vmm: ProcessIdentity, patience: Duration) -> Result<bool, VmmError> {
        let uid = self.uid.clone();
        let killed = tokio::task::spawn_blocking(move || vmm::kill(&uid, &vmm, patience));
        killed.await.unwrap_or_else(|error| Err(vmm::ended(error)))
    }

    /// Kills a VMM of the Pod without waiting.
    pub fn kill_vmm_without_waiting(&self, vmm: &ProcessIdentity) {
        if let Err(error) = vmm::kill(&self.uid, vmm, Duration::ZERO) {
            tracing::error!("cannot kill the VMM: {error}");
        }
    }

    /// Ends all VMMs of the Pod: the recorded one, and any others that are found, because a supervisor may have died
    /// before it recorded one. Waits up to `patience` for each. Returns whether all have ended; until then, the Pod's
    /// address must not be reused.
    ///
    /// # Errors
    /// See [`Self::kill_vmm`].
    pub async fn end_vmms(&self, noted: Option<ProcessIdentity>, patience: Duration) -> Result<bool, VmmError> {
        let uid = self.uid.clone();
        let ended = tokio::task::spawn_blocking(move || vmm::end_all(&uid, noted, patience));
        ended.await.unwrap_or_else(|error| Err(vmm::ended(error)))
    }

    /// Releases everything that the Pod got through this interface: address, rules, scratch disk, socket. Having none
    /// is not an error. The virtual machine must have ended: the address may belong to another Pod as soon as this
    /// returns.
    ///
    /// # Errors
    /// The first resource that cannot be released.
    pub async fn release(&self) -> Result<(), ReleaseError> {
        let network = network::release(&self.paths.network(), &self.uid).await;
        let remove = |path: PathBuf, remove: fn(&Path) -> io::Result<()>| match remove(&path) {
            Ok(()) => Ok(()),
            Err(source) => Err(ReleaseError::File { path, source }),
        };
        let scratch = remove(self.scratch_path(), volume::remove_scratch_disk);
        let socket = remove(self.vmm_socket(), vmm::remove_socket);
        network?;
        scratch.and(socket)
    }

    fn scratch_path(&self) -> PathBuf {
        self.paths.pod_state(&self.uid).join("scratch.img")
    }

    /// The socket through which a later supervisor connects to the guest.
    fn vmm_socket(&self) -> PathBuf {
        self.paths.pod_run(&self.uid).join("vsock.sock")
    }
}

#[cfg(test)]
mod tests;
