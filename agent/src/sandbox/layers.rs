//! Image layers: byte ranges of a block device, which become partitions and are mounted.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use microkube_protocol::messages::Layer;
use nix::mount::{MsFlags, mount};

/// Where layers are mounted.
pub const LAYERS_DIR: &str = "/run/layers";

/// How long the host may take to extend a device.
const DEVICE_PATIENCE: Duration = Duration::from_secs(20);

/// How often the size of a device is checked meanwhile.
const DEVICE_CHECK_PERIOD: Duration = Duration::from_millis(5);

/// A device that ends before its layer.
#[derive(Debug, thiserror::Error)]
#[error("{device} has {actual_bytes} bytes, layer {layer} ends at byte {end_bytes}")]
pub struct DeviceTooSmall {
    device: String,
    layer: String,
    actual_bytes: u64,
    end_bytes: u64,
}

/// The mounted layers.
#[derive(Debug, Default)]
pub struct Layers {
    mounted: HashMap<String, PathBuf>,
    partitions: Partitions,
}

impl Layers {
    /// Where a layer is mounted.
    pub fn mounted(&self, id: &str) -> Option<PathBuf> {
        self.mounted.get(id).cloned()
    }

    /// Where these layers are mounted; unknown ones are left out.
    pub fn all_mounted(&self, ids: &[String]) -> Vec<PathBuf> {
        ids.iter().filter_map(|id| self.mounted(id)).collect()
    }

    /// Mounts checked layers, except those that are mounted.
    pub fn add(&mut self, layers: &[Layer]) -> Result<()> {
        for layer in layers {
            if self.mounted.contains_key(&layer.id) {
                continue;
            }
            wait_for_device(layer)?;
            let path = mount_layer(layer, &mut self.partitions)?;
            self.mounted.insert(layer.id.clone(), path);
        }
        Ok(())
    }
}

/// Waits until the layer lies on its device.
fn wait_for_device(layer: &Layer) -> Result<(), DeviceTooSmall> {
    let end_bytes = layer.offset_bytes.saturating_add(layer.length_bytes);
    let give_up_at = Instant::now() + DEVICE_PATIENCE;
    loop {
        let actual_bytes = device_size_bytes(&layer.device).unwrap_or(0);
        if actual_bytes >= end_bytes {
            return Ok(());
        }
        if Instant::now() >= give_up_at {
            return Err(DeviceTooSmall {
                device: layer.device.clone(),
                layer: layer.id.clone(),
                actual_bytes,
                end_bytes,
            });
        }
        std::thread::sleep(DEVICE_CHECK_PERIOD);
    }
}

/// The last partition number of each device.
#[derive(Debug, Default)]
struct Partitions {
    last: HashMap<String, i32>,
}

/// Mounts a checked layer read-only and returns where. A layer that fills its device is a partition as well: nothing
/// could be mounted beside a mount of the whole device.
fn mount_layer(layer: &Layer, partitions: &mut Partitions) -> Result<PathBuf> {
    let device = Path::new("/dev").join(&layer.device);
    let number = partitions.last.entry(layer.device.clone()).or_default();
    *number += 1;
    add_partition(&device, layer, *number).with_context(|| {
        format!(
            "cannot create bytes {} to {} of {} partition {number}",
            layer.offset_bytes,
            layer.offset_bytes.saturating_add(layer.length_bytes),
            device.display(),
        )
    })?;
    let source = partition_path(&device, *number);
    let target = Path::new(LAYERS_DIR).join(&layer.id);
    fs::create_dir(&target).with_context(|| format!("cannot create {}", target.display()))?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOATIME;
    mount(Some(&source), &target, Some("erofs"), flags, None::<&str>)
        .with_context(|| format!("cannot mount {} as layer {}", source.display(), layer.id))?;
    Ok(target)
}

fn device_size_bytes(device: &str) -> Option<u64> {
    let sectors = fs::read_to_string(format!("/sys/class/block/{device}/size")).ok()?;
    sectors.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// The kernel's name for a partition: if the device's name ends with a digit, a "p" separates the numbers.
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
    // SAFETY: BLKPG takes a pointer to the argument, which points to a partition of the stated
    // size; both outlive the call.
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
