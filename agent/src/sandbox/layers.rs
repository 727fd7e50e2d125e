//! Image layers: byte ranges of a block device, made partitions and mounted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use microkube_protocol::messages::Layer;
use nix::mount::{MsFlags, mount};

/// Where layers are mounted.
pub const LAYERS_DIR: &str = "/run/layers";

/// Partition numbers handed out, a device.
#[derive(Debug, Default)]
pub struct Partitions {
    last: HashMap<String, i32>,
}

/// Mounts a checked layer read-only and returns where.
pub fn mount_layer(layer: &Layer, partitions: &mut Partitions) -> Result<PathBuf> {
    let device = Path::new("/dev").join(&layer.device);
    let source = if layer.offset_bytes == 0 && device_size_bytes(&layer.device) == Some(layer.length_bytes) {
        device
    } else {
        let number = partitions.last.entry(layer.device.clone()).or_default();
        *number += 1;
        add_partition(&device, layer, *number).with_context(|| {
            format!(
                "cannot make bytes {} to {} of {} partition {number}",
                layer.offset_bytes,
                layer.offset_bytes.saturating_add(layer.length_bytes),
                device.display(),
            )
        })?;
        partition_path(&device, *number)
    };
    let target = Path::new(LAYERS_DIR).join(&layer.id);
    fs::create_dir(&target).with_context(|| format!("cannot make {}", target.display()))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
    mount(Some(&source), &target, Some("erofs"), flags, None::<&str>)
        .with_context(|| format!("cannot mount {} as layer {}", source.display(), layer.id))?;
    Ok(target)
}

fn device_size_bytes(device: &str) -> Option<u64> {
    let sectors = fs::read_to_string(format!("/sys/class/block/{device}/size")).ok()?;
    sectors.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// The name the kernel gives a partition: a "p" keeps the numbers apart where the device ends with one.
fn partition_path(device: &Path, number: i32) -> PathBuf {
    let name = device.to_string_lossy();
    let separator = if name.ends_with(|last: char| last.is_ascii_digit()) {
        "p"
    } else {
        ""
    };
    PathBuf::from(format!("{name}{separator}{number}"))
}

fn add_partition(device: &Path, layer: &Layer, number: i32) -> io::Result<()> {
    const BLKPG: libc::Ioctl = 0x1269;
    const BLKPG_ADD_PARTITION: libc::c_int = 1;

    /// `struct blkpg_partition`, linux/blkpg.h.
    #[repr(C)]
    struct Partition {
        start: i64,
        length: i64,
        number: libc::c_int,
        device_name: [u8; 64],
        volume_name: [u8; 64],
    }
    /// `struct blkpg_ioctl_arg`.
    #[repr(C)]
    struct Argument {
        operation: libc::c_int,
        flags: libc::c_int,
        data_length: libc::c_int,
        data: *mut Partition,
    }

    let mut partition = Partition {
        start: i64::try_from(layer.offset_bytes).map_err(io::Error::other)?,
        length: i64::try_from(layer.length_bytes).map_err(io::Error::other)?,
        number,
        device_name: [0; 64],
        volume_name: [0; 64],
    };
    let argument = Argument {
        operation: BLKPG_ADD_PARTITION,
        flags: 0,
        data_length: size_of::<Partition>() as libc::c_int,
        data: &raw mut partition,
    };
    let device = File::open(device)?;
    // SAFETY: BLKPG takes a pointer to the argument, which points to a partition of the stated size; both outlive the call.
    if unsafe { libc::ioctl(device.as_raw_fd(), BLKPG, &raw const argument) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_as_the_kernel_names_them() {
        assert_eq!(partition_path(Path::new("/dev/vda"), 12), Path::new("/dev/vda12"));
        assert_eq!(partition_path(Path::new("/dev/loop0"), 1), Path::new("/dev/loop0p1"));
    }
}
