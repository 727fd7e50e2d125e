//! What the entropy device says of itself.

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

const DEVICE_TYPE: u32 = 4;

/// Identity of the entropy device: there is nothing to configure.
#[derive(Debug)]
pub struct RngIdentity;

impl Identity for RngIdentity {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
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
