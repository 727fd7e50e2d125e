//! The device files in a container's /dev, and the guest's /dev/null.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, chown, lchown, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, major, makedev, minor, mknod, mknodat};

use super::devices::DEFAULT_DEVICES;
use super::mounts::DEV;

const NULL: &str = "/dev/null";

/// Device number of /dev/null (admin-guide/devices.txt).
const NULL_DEVICE: (u64, u64) = (1, 3);

/// Symbolic links in /dev that the OCI runtime specification requires.
const DEVICE_LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Creates the device files of a container in its /dev, and gives /dev and the default devices to the user and group
/// `owner`. A privileged container gets all of the guest's devices as well, which stay root's.
pub fn make_devices(dev: &OwnedFd, privileged: bool, owner: u32) -> Result<()> {
    for (name, major, minor) in DEFAULT_DEVICES {
        mknodat(
            dev,
            name,
            SFlag::S_IFCHR,
            Mode::from_bits_truncate(0o666),
            makedev(major.into(), minor.into()),
        )
        .with_context(|| format!("cannot create /dev/{name}"))?;
    }
    let dev = Path::new("/proc/self/fd").join(dev.as_raw_fd().to_string());
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).with_context(|| format!("cannot create /dev/{name}"))?;
    }
    if owner != 0 {
        chown(&dev, Some(owner), Some(owner)).context("cannot give away /dev")?;
        let links = DEVICE_LINKS.iter().map(|(name, _)| *name);
        for name in DEFAULT_DEVICES.iter().map(|(name, _, _)| *name).chain(links) {
            lchown(dev.join(name), Some(owner), Some(owner))
                .with_context(|| format!("cannot give away /dev/{name}"))?;
        }
    }
    if privileged {
        copy_devices(Path::new(DEV), &dev).context("cannot create the VM's devices")?;
    }
    Ok(())
}

/// Creates the nodes of all the VM's devices, except where one exists already.
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

/// Opens the guest's /dev/null. Must be called before entering the container's root.
pub fn open_null() -> Result<File> {
    File::open(NULL).context("cannot open /dev/null")
}

/// Opens the container's own /dev/null as the stdin of a process that gets no input. If a volume is mounted at /dev,
/// `guests` is used instead.
pub fn open_own_null(guests: File) -> File {
    let own = File::options()
        .read(true)
        // A volume may have a FIFO at this path.
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(NULL);
    own.ok().filter(is_null).unwrap_or(guests)
}

fn is_null(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| {
        let device = metadata.rdev();
        metadata.file_type().is_char_device() && (major(device), minor(device)) == NULL_DEVICE
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dev_null_is_recognised_as_the_null_device() {
        assert!(is_null(&open_null().unwrap()));
        assert!(!is_null(&File::open("/dev/zero").unwrap()));
        assert!(!is_null(&File::open("/etc/passwd").unwrap()));
    }
}
