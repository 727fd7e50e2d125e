//! Mounts that are made before the helper enters the container: the overlay of its image, and clones of the guest's files
//! and directories that the container gets.
//!
//! In a Pod with its own user namespace ([`crate::user_namespace`]) all of them are made here, because only the guest's
//! root may map the users of a mount. Attaching them is for [`super::rootfs`].

use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

use super::dev;
use super::mounts::{DEV, KernelFileSystem, NO_SUID_DEV_EXEC, Source, in_order};
use super::spec::{Propagation, RootSpec, VolumeMount};
use super::sub_path;
use crate::mount_api::{self, NewFileSystem, add_attributes, attach, attr, clone_mount, make_slave, map_users};
use crate::overlay::{self, Upper};
use crate::user_namespace;

/// Detached mounts by their path in the container.
pub type PreparedMounts = HashMap<PathBuf, OwnedFd>;

/// Prepares the mounts that cannot be made later: in a user namespace all that need the guest's root, otherwise only the
/// volumes whose own mounts reach other containers. Must be called before [`overlay()`].
pub fn prepare(spec: &RootSpec, user_namespace: Option<BorrowedFd<'_>>) -> Result<PreparedMounts> {
    let mut prepared = PreparedMounts::new();
    for mount in in_order(spec) {
        let made = match (&mount.source, user_namespace) {
            (Source::Kernel(kernel), Some(_)) if kernel.target == DEV => {
                new_dev(kernel, spec.privileged).context("cannot prepare /dev")?
            }
            (Source::Kernel(_), _) => continue,
            (Source::Volume(volume), None) if volume.propagation == Propagation::Private => continue,
            (Source::File { .. } | Source::SharedMemory(_), None) => continue,
            (source, user_namespace) => source.prepare(user_namespace)?,
        };
        prepared.insert(mount.target, made);
    }
    Ok(prepared)
}

/// The /dev of a container in a user namespace, whose root cannot create devices.
fn new_dev(kernel: &KernelFileSystem, privileged: bool) -> Result<OwnedFd> {
    let dev = new_kernel_mount(kernel, privileged)?.context("the kernel has no tmpfs")?;
    dev::make_devices(&dev, privileged, user_namespace::FIRST_ID)?;
    Ok(dev)
}

/// A detached mount of a kernel file system, unless the kernel lacks it and it is optional.
pub(super) fn new_kernel_mount(kernel: &KernelFileSystem, privileged: bool) -> Result<Option<OwnedFd>> {
    let file_system = match NewFileSystem::open(kernel.fs_type) {
        Err(error) if kernel.optional && error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        file_system => file_system?,
    };
    for (key, value) in kernel.options {
        file_system.set(key, value)?;
    }
    let read_only = match kernel.read_only && !privileged {
        true => attr::RDONLY,
        false => 0,
    };
    Ok(Some(file_system.mount(kernel.attributes | read_only)?))
}

impl Source<'_> {
    /// A detached mount of the source, with the users of the namespace.
    pub(super) fn prepare(&self, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
        let prepare = || match self {
            Self::Kernel(kernel) => {
                new_kernel_mount(kernel, false)?.context("the kernel does not have this file system")
            }
            Self::Volume(volume) => prepare_volume(volume, user_namespace),
            Self::File { path, read_only } => {
                prepare_clone(path, if *read_only { attr::RDONLY } else { 0 }, user_namespace)
            }
            Self::SharedMemory(path) => prepare_clone(path, NO_SUID_DEV_EXEC, user_namespace),
        };
        prepare().with_context(|| format!("cannot mount {self}"))
    }
}

impl fmt::Display for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(kernel) => f.write_str(&kernel.fs_type.to_string_lossy()),
            Self::Volume(volume) => write!(f, "the volume {:?}", volume.volume),
            Self::File { path, .. } => write!(f, "the Pod's file {:?}", path.file_name().unwrap_or_default()),
            Self::SharedMemory(_) => f.write_str("the Pod's shared memory"),
        }
    }
}

fn prepare_clone(source: &Path, attributes: u64, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    let mounted = clone_mount(open_path(source)?.as_fd(), false).context("cannot clone the mount")?;
    map(&mounted, user_namespace)?;
    if attributes != 0 {
        add_attributes(mounted.as_fd(), attributes, false).context("cannot set the mount's attributes")?;
    }
    Ok(mounted)
}

fn prepare_volume(volume: &VolumeMount, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    // Include the mounts that other containers have made in it (`rbind` in containerd).
    let mounted = clone_mount(source_of(volume)?.as_fd(), true).context("cannot clone the mount")?;
    if volume.propagation == Propagation::Slave {
        make_slave(mounted.as_fd()).context("cannot set the mount's propagation")?;
    }
    if !volume.is_image {
        // Only the volume itself: mounts in it were made by containers, in the same user namespace.
        map(&mounted, user_namespace)?;
    }
    if volume.read_only {
        add_attributes(mounted.as_fd(), attr::RDONLY, volume.recursive_read_only)
            .context("cannot make the mount read-only")?;
    }
    Ok(mounted)
}

fn map(mounted: &OwnedFd, user_namespace: Option<BorrowedFd<'_>>) -> Result<()> {
    match user_namespace {
        Some(user_namespace) => map_users(mounted.as_fd(), user_namespace).context("cannot map the mount's users"),
        None => Ok(()),
    }
}

/// The source of a volume mount: the volume, or the part of it that `subPath` names.
fn source_of(volume: &VolumeMount) -> Result<OwnedFd> {
    let whole = open_path(&volume.source)?;
    if volume.sub_path.as_os_str().is_empty() {
        return Ok(whole);
    }
    match volume.is_image {
        true => Ok(sub_path::open_in_image(
            whole.as_fd(),
            &volume.volume,
            &volume.sub_path,
        )?),
        false => Ok(sub_path::open(whole.as_fd(), &volume.volume, &volume.sub_path)?),
    }
}

/// Makes all mounts of the calling process's namespace private, and mounts the container's own root file system, which
/// contains only its image so far. The mount is not attached.
pub fn overlay(spec: &RootSpec, user_namespace: Option<BorrowedFd<'_>>) -> Result<OwnedFd> {
    make_private()?;
    if user_namespace.is_some() {
        // The upper layer is not mapped, because the overlay creates files in it as the guest's root, which has no user in
        // the namespace.
        let root = Some(user_namespace::FIRST_ID);
        chown(&spec.upper_dir, root, root).with_context(|| format!("cannot give away {}", spec.upper_dir.display()))?;
    }
    let upper = Upper {
        upper_dir: &spec.upper_dir,
        work_dir: &spec.work_dir,
    };
    overlay::mount(&spec.layers, Some(upper), 0, user_namespace)
}

/// Makes all mounts of the calling process's namespace private.
pub fn make_private() -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make all mounts private")
}

/// Mounts a clone of `source` on `target`.
pub(super) fn bind(source: BorrowedFd<'_>, target: BorrowedFd<'_>, attributes: u64) -> Result<()> {
    let mounted = clone_mount(source, false).context("cannot clone the mount")?;
    if attributes != 0 {
        add_attributes(mounted.as_fd(), attributes, false).context("cannot set the mount's attributes")?;
    }
    attach(mounted.as_fd(), target).context("cannot attach the mount")
}

/// Opens a path of the guest, following symbolic links.
pub(super) fn open_path(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    mount_api::open_path(path).with_context(|| format!("cannot open {}", path.display()))
}
