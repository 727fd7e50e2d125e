//! What the entropy device says of itself.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

/// Identity of the entropy device: there is nothing to configure.
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
