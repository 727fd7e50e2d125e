//! The file system of a container: overlay, mounts, masked paths.
//!
//! Runs in the helper, inside the container's new mount and PID namespaces. Targets are resolved inside the container's
//! root with [`open_in_root`], so nothing in an image can redirect a mount.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{chdir, fchdir, pivot_root};

use super::dev;
use super::mounts::{DEV, KernelFileSystem, Mount, NO_SUID_DEV_EXEC, Source, in_order};
use super::prepared_mounts::{PreparedMounts, bind, new_kernel_mount, open_path};
use super::spec::RootSpec;
use crate::mount_api::{Missing, add_attributes, attach, attr, clone_mount, is_directory, new_mount, open_in_root};

const DIRECTORY: Missing = Missing::Directory(Mode::from_bits_truncate(0o755));

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

/// Mounts everything in the image, which is not attached yet, and makes it the root directory of the calling process.
pub fn enter(root: &OwnedFd, spec: &RootSpec, mut prepared: PreparedMounts, working_dir: &Path) -> Result<()> {
    let root = root.as_fd();
    // Not all kernels can mount on top of a detached mount, so attach the root first: on the agent's empty /tmp, in this
    // namespace only.
    attach(root, open_path("/tmp")?.as_fd()).context("cannot attach the image")?;
    for mount in in_order(spec) {
        make_mount(root, &mount, spec.privileged, &mut prepared)?;
    }
    if let Err(error) = open_in_root(root, working_dir, DIRECTORY) {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        return Err(WorkingDirError::new(working_dir, errno).into());
    }
    if !spec.privileged && !spec.unmasked_proc {
        hide_and_protect(root)?;
    }
    change_root(root)?;
    if spec.read_only_rootfs {
        add_attributes(open_path("/")?.as_fd(), attr::RDONLY, false)
            .context("cannot make the root file system read-only")?;
    }
    Ok(())
}

fn make_mount(root: BorrowedFd<'_>, mount: &Mount<'_>, privileged: bool, prepared: &mut PreparedMounts) -> Result<()> {
    let target = mount.target.as_path();
    match (&mount.source, prepared.remove(target)) {
        (Source::Kernel(kernel), Some(mounted)) => attach_kernel(root, kernel, &mounted),
        (Source::Kernel(kernel), None) => {
            mount_kernel(root, kernel, privileged)
                .with_context(|| format!("cannot mount {} at {}", kernel.fs_type.to_string_lossy(), kernel.target))?;
            if kernel.target == DEV {
                let dev = open_in_root(root, Path::new(DEV), Missing::Fail).context("cannot open /dev")?;
                dev::make_devices(&dev, privileged, 0)?;
            }
            Ok(())
        }
        (source, mounted) => {
            let mounted = match mounted {
                Some(mounted) => mounted,
                None => source.prepare(None)?,
            };
            attach_at(root, target, &mounted).with_context(|| format!("cannot mount {source} at {}", target.display()))
        }
    }
}

/// Attaches a mount at a path of the container, which is created if it is missing.
fn attach_at(root: BorrowedFd<'_>, target: &Path, mounted: &OwnedFd) -> Result<()> {
    ensure!(
        target != Path::new("/"),
        "the container's root file system is mounted there"
    );
    let missing = if is_directory(mounted)? {
        DIRECTORY
    } else {
        Missing::File
    };
    let place = mount_point(root, target, missing)?;
    attach(mounted.as_fd(), place.as_fd()).context("cannot attach the mount")
}

fn mount_kernel(root: BorrowedFd<'_>, kernel: &KernelFileSystem, privileged: bool) -> Result<()> {
    match new_kernel_mount(kernel, privileged)? {
        Some(mounted) => attach_kernel(root, kernel, &mounted),
        None => Ok(()),
    }
}

fn attach_kernel(root: BorrowedFd<'_>, kernel: &KernelFileSystem, mounted: &OwnedFd) -> Result<()> {
    let place = open_in_root(root, Path::new(kernel.target), DIRECTORY)?;
    attach(mounted.as_fd(), place.as_fd())?;
    Ok(())
}

/// Makes a terminal of the container's own devpts its /dev/console. Must be called inside the new
/// root, before anything runs.
pub fn bind_console(number: u32) -> Result<()> {
    let root = open_path("/")?;
    let bind = || -> Result<()> {
        let terminal = open_path(format!("/dev/pts/{number}"))?;
        let console = mount_point(root.as_fd(), Path::new("/dev/console"), Missing::File)?;
        bind(terminal.as_fd(), console.as_fd(), 0)
    };
    bind().context("cannot mount /dev/console")
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

fn open_if_there(root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match open_in_root(root, Path::new(path), Missing::Fail) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => bail!("cannot open {path}: {error}"),
    }
}
