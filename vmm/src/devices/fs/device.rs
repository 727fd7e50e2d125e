//! Identity and configuration space of the file system device (sections 5.11.2 to 5.11.4).

use virtio_bindings::virtio_ids::VIRTIO_ID_FS;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

/// The name by which the guest mounts the file system.
pub const TAG: &str = "microkube";
/// Size of both queues, and maximum number of requests in flight.
pub const QUEUE_SIZE: u16 = 512;
/// Number of the device's queues: one of high priority, in which Linux puts FORGET, and one for requests. Their
/// messages are the same, so the device only takes the former first.
pub const QUEUE_COUNT: usize = 2;

/// Length of the tag's field in `struct virtio_fs_config`; the number of request queues follows.
const TAG_BYTES: usize = 36;
const CONFIG_BYTES: usize = TAG_BYTES + size_of::<u32>();

/// Identity of the file system device. It offers no notification queue and no DAX window.
#[derive(Debug)]
pub struct FsIdentity;

const CONFIG: [u8; CONFIG_BYTES] = {
    let mut config = [0; CONFIG_BYTES];
    let (tag, rest) = config.split_at_mut(TAG_BYTES);
    // The tag is padded with zeros.
    tag.split_at_mut(TAG.len()).0.copy_from_slice(TAG.as_bytes());
    rest.copy_from_slice(&1u32.to_le_bytes());
    config
};

impl Identity for FsIdentity {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUE_COUNT]
    }
    fn config(&self) -> &[u8] {
        &CONFIG
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_has_the_tag_and_one_request_queue() {
        let mut config = [0xee; CONFIG_BYTES + 1];
        FsIdentity.read_config(0, &mut config);
        assert_eq!(&config[..10], b"microkube\0");
        assert_eq!(&config[10..36], [0; 26]);
        assert_eq!(&config[36..], [1, 0, 0, 0, 0xee]);
        assert_eq!((FsIdentity.device_type(), FsIdentity.queue_sizes().len()), (26, 2));
    }
}
