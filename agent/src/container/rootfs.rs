//! The file system of a container: overlay, kernel file systems, devices, volumes, masked paths.
//!
//! Runs in the helper, inside the container's new mount and PID namespaces. Targets are resolved inside the container's
//! root with [`open_in_root`]; nothing in an image can direct a mount elsewhere.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod, mknodat};
use nix::unistd::{chdir, fchdir, pivot_root};

use super::devices::DEFAULT_DEVICES;
use super::spec::{RootSpec, VolumeMount};
use crate::mount_api::{
    Missing, NewFileSystem, add_attributes, attach, attr, clone_mount, is_directory, new_mount, open_in_root,
};

const DIRECTORY: Missing = Missing::Directory(Mode::from_bits_truncate(0o755));
const NO_SUID_DEV_EXEC: u64 = attr::NOSUID | attr::NODEV | attr::NOEXEC;

/// Hidden from containers, as in Docker: they would tell about, or reach, the machine.
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

/// Not writable for containers, as in Docker.
const READ_ONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Symbolic links in /dev, as the OCI runtime specification wants them.
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// A working directory that cannot be used, which is the image's or the manifest's mistake.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("cannot use the working directory {path:?}: {}", errno.desc())]
pub struct WorkingDirError {
    path: PathBuf,
    errno: Errno,
}

impl WorkingDirError {
    /// Why which path cannot be used.
    pub fn new(path: &Path, errno: Errno) -> Self {
        Self {
            path: path.to_owned(),
            errno,
        }
    }
}

/// Builds the container's file system and makes it the root directory of the calling process.
pub fn enter(spec: &RootSpec, working_dir: &Path) -> Result<()> {
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make all mounts private")?;

    let root = mount_overlay(spec)?;
    let root = root.as_fd();
    mount_kernel_file_systems(root, spec.privileged)?;
    for name in ["hosts", "resolv.conf", "hostname"] {
        bind_etc_file(root, &spec.etc_dir, name, spec.read_only_rootfs)
            .with_context(|| format!("cannot mount /etc/{name}"))?;
    }
    bind_directory(root, &spec.shm_dir, "/dev/shm", NO_SUID_DEV_EXEC).context("cannot mount /dev/shm")?;
    for volume in &spec.mounts {
        mount_volume(root, volume).with_context(|| format!("cannot mount a volume at {}", volume.target.display()))?;
    }
    if let Some((file, target)) = &spec.termination_message {
        bind_file(root, file, target)
            .with_context(|| format!("cannot mount the termination message's file at {}", target.display()))?;
    }
    if let Err(error) = open_in_root(root, working_dir, DIRECTORY) {
        let errno = error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        return Err(WorkingDirError::new(working_dir, errno).into());
    }

    change_root(root)?;
    if !spec.privileged {
        hide_and_protect()?;
    }
    if spec.read_only_rootfs {
        add_attributes(open_path("/")?.as_fd(), attr::RDONLY, false)
            .context("cannot make the root file system read-only")?;
    }
    Ok(())
}

/// Mounts the overlay where the kernel puts no other name to it: on the agent's empty /tmp, in this namespace only.
fn mount_overlay(spec: &RootSpec) -> Result<OwnedFd> {
    let overlay = NewFileSystem::open(c"overlay").context("cannot open an overlay file system")?;
    // One option a layer: the page that limits the options of mount(2) does not limit the number of layers.
    for layer in spec.layers.iter().rev() {
        set_path(&overlay, c"lowerdir+", layer)?;
    }
    set_path(&overlay, c"upperdir", &spec.upper_dir)?;
    set_path(&overlay, c"workdir", &spec.work_dir)?;
    // The writable layer ends with the container, so fsync has nothing to protect.
    overlay
        .set_flag(c"volatile")
        .context("cannot make the overlay volatile")?;
    let mounted = overlay.mount(0).context("cannot mount the overlay")?;
    // Unattached mounts cannot be mounted upon in all kernels, so the root gets a place first.
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

fn mount_kernel_file_systems(root: BorrowedFd<'_>, privileged: bool) -> Result<()> {
    let read_only = if privileged { 0 } else { attr::RDONLY };
    mount_new(root, "/proc", c"proc", NO_SUID_DEV_EXEC, &[])?;
    mount_new(
        root,
        "/dev",
        c"tmpfs",
        attr::NOSUID | attr::STRICTATIME,
        &[(c"mode", "755"), (c"size", "65536k")],
    )?;
    make_devices(root, privileged)?;
    mount_new(
        root,
        "/dev/pts",
        c"devpts",
        attr::NOSUID | attr::NOEXEC,
        &[(c"ptmxmode", "0666"), (c"mode", "0620"), (c"gid", "5")],
    )?;
    match mount_new(root, "/dev/mqueue", c"mqueue", NO_SUID_DEV_EXEC, &[]) {
        // A kernel without POSIX message queues.
        Err(error) if error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) == Some(libc::ENODEV) => {}
        other => other?,
    }
    mount_new(root, "/sys", c"sysfs", NO_SUID_DEV_EXEC | read_only, &[])?;
    mount_new(root, "/sys/fs/cgroup", c"cgroup2", NO_SUID_DEV_EXEC | read_only, &[])
}

fn mount_new(
    root: BorrowedFd<'_>,
    target: &str,
    fs_type: &CStr,
    attributes: u64,
    options: &[(&CStr, &str)],
) -> Result<()> {
    let context = || format!("cannot mount {} at {target}", fs_type.to_string_lossy());
    let file_system = NewFileSystem::open(fs_type).with_context(context)?;
    for (key, value) in options {
        file_system.set(key, value).with_context(context)?;
    }
    let mounted = file_system.mount(attributes).with_context(context)?;
    let place = open_in_root(root, Path::new(target), DIRECTORY).with_context(context)?;
    attach(mounted.as_fd(), place.as_fd()).with_context(context)
}

fn make_devices(root: BorrowedFd<'_>, privileged: bool) -> Result<()> {
    let dev = open_in_root(root, Path::new("/dev"), Missing::Fail).context("cannot open /dev")?;
    for (name, major, minor) in DEFAULT_DEVICES {
        mknodat(
            &dev,
            name,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major.into(), minor.into()),
        )
        .with_context(|| format!("cannot make /dev/{name}"))?;
    }
    let dev = Path::new("/proc/self/fd").join(std::os::fd::AsRawFd::as_raw_fd(&dev).to_string());
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).with_context(|| format!("cannot make /dev/{name}"))?;
    }
    if privileged {
        copy_devices(Path::new("/dev"), &dev).context("cannot make the machine's devices")?;
    }
    Ok(())
}

/// Makes the nodes of all the machine's devices, except where there is one already.
fn copy_devices(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (metadata, target) = (entry.metadata()?, to.join(entry.file_name()));
        let kind = metadata.file_type();
        if kind.is_dir() {
            fs::create_dir(&target)?;
            copy_devices(&entry.path(), &target)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            let kind = if kind.is_block_device() {
                SFlag::S_IFBLK
            } else {
                SFlag::S_IFCHR
            };
            match mknod(
                &target,
                kind,
                Mode::from_bits_truncate(metadata.mode()),
                metadata.rdev(),
            ) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn bind_etc_file(root: BorrowedFd<'_>, etc_dir: &Path, name: &str, read_only: bool) -> Result<()> {
    let source = open_path(etc_dir.join(name))?;
    let target = open_in_root(root, &Path::new("/etc").join(name), Missing::File)?;
    bind(source.as_fd(), target.as_fd(), if read_only { attr::RDONLY } else { 0 })
}

fn bind_file(root: BorrowedFd<'_>, source: &Path, target: &Path) -> Result<()> {
    let source = open_path(source)?;
    let target = open_in_root(root, target, Missing::File).context("cannot make the mount point")?;
    bind(source.as_fd(), target.as_fd(), 0)
}

/// Makes a terminal of the container's own devpts its /dev/console. To be called inside the new root, before anything runs.
pub fn bind_console(number: u32) -> Result<()> {
    let root = open_path("/")?;
    let terminal = PathBuf::from(format!("/dev/pts/{number}"));
    bind_file(root.as_fd(), &terminal, Path::new("/dev/console")).context("cannot mount /dev/console")
}

fn bind_directory(root: BorrowedFd<'_>, source: &Path, target: &str, attributes: u64) -> Result<()> {
    let source = open_path(source)?;
    let target = open_in_root(root, Path::new(target), DIRECTORY)?;
    bind(source.as_fd(), target.as_fd(), attributes)
}

fn bind(source: BorrowedFd<'_>, target: BorrowedFd<'_>, attributes: u64) -> Result<()> {
    let mounted = clone_mount(source, false).context("cannot clone the mount")?;
    if attributes != 0 {
        add_attributes(mounted.as_fd(), attributes, false).context("cannot set the mount's attributes")?;
    }
    attach(mounted.as_fd(), target).context("cannot attach the mount")
}

fn mount_volume(root: BorrowedFd<'_>, volume: &VolumeMount) -> Result<()> {
    let whole = open_path(&volume.source)?;
    let source = if volume.sub_path.as_os_str().is_empty() {
        whole
    } else {
        // Like the kubelet's SafeMakeDir: what is missing gets the volume's own mode.
        let mode = nix::sys::stat::fstat(&whole)
            .context("cannot look at the volume")?
            .st_mode;
        let missing = Missing::Directory(Mode::from_bits_truncate(mode & 0o7777));
        open_in_root(whole.as_fd(), &volume.sub_path, missing)
            .with_context(|| format!("cannot open {} in the volume", volume.sub_path.display()))?
    };
    let missing = if is_directory(&source)? {
        DIRECTORY
    } else {
        Missing::File
    };
    let target = open_in_root(root, &volume.target, missing).context("cannot make the mount point")?;
    bind(
        source.as_fd(),
        target.as_fd(),
        if volume.read_only { attr::RDONLY } else { 0 },
    )
}

fn change_root(root: BorrowedFd<'_>) -> Result<()> {
    fchdir(root).context("cannot enter the container's root")?;
    // Old and new root are stacked at one place, so that no directory is needed for the old one (pivot_root(2)).
    pivot_root(".", ".").context("cannot pivot the root directory")?;
    umount2(".", MntFlags::MNT_DETACH).context("cannot leave the agent's root")?;
    chdir("/").context("cannot enter the new root")
}

fn hide_and_protect() -> Result<()> {
    let null = open_path("/dev/null")?;
    for path in MASKED_PATHS {
        let Some(target) = open_if_there(path)? else { continue };
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
        let Some(target) = open_if_there(path)? else { continue };
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

fn open_if_there(path: &str) -> Result<Option<OwnedFd>> {
    match open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(error) => bail!("cannot open {path}: {error}"),
    }
}

/// Opens the container's own /dev/null, as stdin of a container that has none.
pub fn open_null() -> Result<File> {
    File::open("/dev/null").context("cannot open /dev/null")
}
