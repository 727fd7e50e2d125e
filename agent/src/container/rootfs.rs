//! The file system of a container: overlay, mounts, masked paths.
//!
//! Runs in the helper, inside the container's new mount and PID namespaces. Targets are resolved inside the container's
//! root with [`open_in_root`], so nothing in an image can redirect a mount.

use std::collections::HashMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chdir, fchdir, pivot_root};

use super::mounts::{DEV, KernelFileSystem, Mount, Source, in_order};
use super::spec::{Propagation, RootSpec, VolumeMount};
use super::{dev, sub_path};
use crate::mount_api::{
    Missing, NewFileSystem, add_attributes, attach, attr, clone_mount, is_directory, make_slave, new_mount,
    open_in_root,
};

const DIRECTORY: Missing = Missing::Directory(Mode::from_bits_truncate(0o755));
const NO_SUID_DEV_EXEC: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Paths hidden from containers, as in Docker: they reveal details of the VM or give access to it.
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that containers cannot write to, as in Docker.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Files of procfs that a volume may replace, as in runc (`checkProcMount`), because lxcfs emulates them.
const REPLACEABLE_PROC_FILES: [&str; 9] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
];

/// The working directory is unusable because of a mistake in the image or the manifest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot use the working directory {path:?}: {}", errno.desc())]
pub struct WorkingDirError {
    path: PathBuf,
    errno: Errno,
}

impl WorkingDirError {
    pub fn new(path: &Path, errno: Errno) -> Self {
        Self {
            path: path.to_owned(),
            errno,
        }
    }
}

/// Mounts of the volumes whose own mounts reach other containers, by their path in the container.
pub type PropagatedVolumes = HashMap<PathBuf, OwnedFd>;

/// Clones these volumes. Must be called before [`mount_image`].
pub fn clone_propagated(spec: &RootSpec) -> Result<PropagatedVolumes> {
    let propagated = spec
        .mounts
        .iter()
        .filter(|volume| volume.propagation != Propagation::Private);
    propagated
        .map(|volume| {
            let clone = || -> Result<OwnedFd> {
                let mounted = clone_mount(source_of(volume)?.as_fd(), true).context("cannot clone the mount")?;
                if volume.propagation == Propagation::Slave {
                    make_slave(mounted.as_fd()).context("cannot set the mount's propagation")?;
                }
                Ok(mounted)
            };
            let cloned = clone().with_context(|| format!("cannot mount the volume {:?}", volume.volume))?;
            Ok((volume.target.clone(), cloned))
        })
        .collect()
}

/// The source of a volume mount: the volume, or the part of it that `subPath` names.
fn source_of(volume: &VolumeMount) -> Result<OwnedFd> {
    let whole = open_path(&volume.source)?;
    match volume.sub_path.as_os_str().is_empty() {
        true => Ok(whole),
        false => Ok(sub_path::open(whole.as_fd(), &volume.volume, &volume.sub_path)?),
    }
}

/// Mounts the container's own root file system, which contains only its image so far.
pub fn mount_image(spec: &RootSpec) -> Result<OwnedFd> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make all mounts private")?;
    mount_overlay(spec)
}

/// Mounts everything else in the image and makes it the root directory of the calling process.
pub fn enter(root: &OwnedFd, spec: &RootSpec, mut shared: PropagatedVolumes, working_dir: &Path) -> Result<()> {
    let root = root.as_fd();
    for mount in in_order(spec) {
        make_mount(root, &mount, spec.privileged, &mut shared)?;
    }
    if let Err(error) = open_in_root(root, working_dir, DIRECTORY) {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        return Err(WorkingDirError::new(working_dir, errno).into());
    }
    if !spec.privileged {
        hide_and_protect(root)?;
    }
    change_root(root)?;
    if spec.read_only_rootfs {
        add_attributes(open_path("/")?.as_fd(), attr::RDONLY, false)
            .context("cannot make the root file system read-only")?;
    }
    Ok(())
}

/// Mounts the overlay on the agent's empty /tmp, in this namespace only.
fn mount_overlay(spec: &RootSpec) -> Result<OwnedFd> {
    let overlay = NewFileSystem::open(c"overlay").context("cannot open an overlay file system")?;
    // One option per layer: mount(2) limits all options together to one page, which would limit the number of layers.
    for layer in spec.layers.iter().rev() {
        set_path(&overlay, c"lowerdir+", layer)?;
    }
    set_path(&overlay, c"upperdir", &spec.upper_dir)?;
    set_path(&overlay, c"workdir", &spec.work_dir)?;
    // The writable layer is removed with the container, so fsync has nothing to protect.
    overlay
        .set_flag(c"volatile")
        .context("cannot make the overlay volatile")?;
    let mounted = overlay.mount(0).context("cannot mount the overlay")?;
    // Not all kernels can mount on top of a detached mount, so attach the root first.
    let place = open_path("/tmp")?;
    attach(mounted.as_fd(), place.as_fd()).context("cannot attach the overlay")?;
    Ok(mounted)
}

fn set_path(overlay: &NewFileSystem, key: &CStr, path: &Path) -> Result<()> {
    let text = path
        .to_str()
        .with_context(|| format!("{} is not valid UTF-8", path.display()))?;
    overlay
        .set(key, text)
        .with_context(|| format!("cannot set {} to {text}", key.to_string_lossy()))
}

fn make_mount(root: BorrowedFd<'_>, mount: &Mount<'_>, privileged: bool, shared: &mut PropagatedVolumes) -> Result<()> {
    let target = mount.target.as_path();
    match &mount.source {
        Source::Kernel(kernel) => {
            mount_kernel(root, kernel, privileged)
                .with_context(|| format!("cannot mount {} at {}", kernel.fs_type.to_string_lossy(), kernel.target))?;
            if kernel.target == DEV {
                dev::make_devices(root, privileged)?;
            }
            Ok(())
        }
        Source::Volume(volume) => mount_volume(root, volume, target, shared.remove(&volume.target))
            .with_context(|| format!("cannot mount the volume {:?} at {}", volume.volume, target.display())),
        Source::File { path, read_only } => {
            bind_file(root, path, target, *read_only).with_context(|| format!("cannot mount {}", target.display()))
        }
        Source::SharedMemory(path) => bind_directory(root, path, target, NO_SUID_DEV_EXEC)
            .with_context(|| format!("cannot mount {}", target.display())),
    }
}

fn mount_kernel(root: BorrowedFd<'_>, kernel: &KernelFileSystem, privileged: bool) -> Result<()> {
    let file_system = match NewFileSystem::open(kernel.fs_type) {
        Err(error) if kernel.optional && error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
        file_system => file_system?,
    };
    for (key, value) in kernel.options {
        file_system.set(key, value)?;
    }
    let read_only = match kernel.read_only && !privileged {
        true => attr::RDONLY,
        false => 0,
    };
    let mounted = file_system.mount(kernel.attributes | read_only)?;
    let place = open_in_root(root, Path::new(kernel.target), DIRECTORY)?;
    attach(mounted.as_fd(), place.as_fd())?;
    Ok(())
}

fn bind_file(root: BorrowedFd<'_>, source: &Path, target: &Path, read_only: bool) -> Result<()> {
    let source = open_path(source)?;
    let target = mount_point(root, target, Missing::File)?;
    bind(source.as_fd(), target.as_fd(), if read_only { attr::RDONLY } else { 0 })
}

/// Makes a terminal of the container's own devpts its /dev/console. Must be called inside the new
/// root, before anything runs.
pub fn bind_console(number: u32) -> Result<()> {
    let root = open_path("/")?;
    let terminal = PathBuf::from(format!("/dev/pts/{number}"));
    bind_file(root.as_fd(), &terminal, Path::new("/dev/console"), false).context("cannot mount /dev/console")
}

fn bind_directory(root: BorrowedFd<'_>, source: &Path, target: &Path, attributes: u64) -> Result<()> {
    let source = open_path(source)?;
    let target = mount_point(root, target, DIRECTORY)?;
    bind(source.as_fd(), target.as_fd(), attributes)
}

/// Finds or creates a mount point.
fn mount_point(root: BorrowedFd<'_>, target: &Path, missing: Missing) -> Result<OwnedFd> {
    let place = open_in_root(root, target, missing).map_err(|error| {
        let is_read_only = error.raw_os_error() == Some(libc::EROFS);
        let made = anyhow::Error::new(error);
        match is_read_only {
            true => made
                .context("cannot create the mount point: it does not exist, and its file system is mounted read-only"),
            false => made.context("cannot create the mount point"),
        }
    })?;
    refuse_in_proc(&place, target)?;
    Ok(place)
}

/// Refuses to mount over procfs, which contains the kernel's interfaces to processes (runc's rule, CVE-2019-16884).
fn refuse_in_proc(place: &OwnedFd, target: &Path) -> Result<()> {
    let file_system = fstatfs(place).context("cannot examine the mount point's file system")?;
    let replaceable = REPLACEABLE_PROC_FILES.iter().any(|file| Path::new(file) == target);
    ensure!(
        file_system.filesystem_type() != PROC_SUPER_MAGIC || replaceable,
        "nothing can be mounted at or below /proc"
    );
    Ok(())
}

fn bind(source: BorrowedFd<'_>, target: BorrowedFd<'_>, attributes: u64) -> Result<()> {
    let mounted = clone_mount(source, false).context("cannot clone the mount")?;
    if attributes != 0 {
        add_attributes(mounted.as_fd(), attributes, false).context("cannot set the mount's attributes")?;
    }
    attach(mounted.as_fd(), target).context("cannot attach the mount")
}

fn mount_volume(root: BorrowedFd<'_>, volume: &VolumeMount, target: &Path, shared: Option<OwnedFd>) -> Result<()> {
    ensure!(
        target != Path::new("/"),
        "the container's root file system is mounted there"
    );
    let mounted = match shared {
        Some(shared) => shared,
        // Include the mounts that other containers have made in it (`rbind` in containerd).
        None => clone_mount(source_of(volume)?.as_fd(), true).context("cannot clone the mount")?,
    };
    let missing = if is_directory(&mounted)? {
        DIRECTORY
    } else {
        Missing::File
    };
    let target = mount_point(root, target, missing)?;
    if volume.read_only {
        add_attributes(mounted.as_fd(), attr::RDONLY, volume.recursive_read_only)
            .context("cannot make the mount read-only")?;
    }
    attach(mounted.as_fd(), target.as_fd()).context("cannot attach the mount")
}

/// Makes an attached mount the root directory of the calling process, and detaches the old one.
pub fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root).context("cannot enter the container's root")?;
    // The old and new root are stacked at one place, so no directory is needed for the old one (pivot_root(2)).
    pivot_root(".", ".").context("cannot pivot the root directory")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the agent's root")?;
    chdir("/").context("cannot enter the new root")
}

fn hide_and_protect(root: BorrowedFd<'_>) -> Result<()> {
    // Use the guest's /dev/null, because the container's may come from a volume.
    let null = dev::open_null()?;
    for path in MASKED_PATHS {
        let Some(target) = open_if_there(root, path)? else {
            continue;
        };
        let cover = if is_directory(&target)? {
            new_mount(c"tmpfs", attr::RDONLY | NO_SUID_DEV_EXEC)
        } else {
            clone_mount(null.as_fd(), false)
        };
        cover
            .and_then(|cover| attach(cover.as_fd(), target.as_fd()))
            .with_context(|| format!("cannot mask {path}"))?;
    }
    for path in READ_ONLY_PATHS {
        let Some(target) = open_if_there(root, path)? else {
            continue;
        };
        bind(target.as_fd(), target.as_fd(), NO_SUID_DEV_EXEC | attr::RDONLY)
            .with_context(|| format!("cannot make {path} read-only"))?;
    }
    Ok(())
}

fn open_path(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .with_context(|| format!("cannot open {}", path.display()))
}

fn open_if_there(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match open_in_root(root, Path::new(path), Missing::Fail) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => bail!("cannot open {path}: {error}"),
    }
}
