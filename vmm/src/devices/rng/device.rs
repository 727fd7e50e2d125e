//! Identity and features of the entropy device.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

/// Identity of the entropy device, which has no configuration space.
#[derive(Debug)]
pub struct RngIdentity;

impl Identity for RngIdentity {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        &[16]
    }
    fn config(&self) -> &[u8] {
        &[]
    }
}
