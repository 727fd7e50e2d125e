//! Identity, features and configuration space of the socket device (sections 5.10.2 to 5.10.4).

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

const QUEUE_SIZE: u16 = 256;

/// Queue of packets to the guest.
pub const QUEUE_RX: usize = 0;
/// Queue of packets from the guest.
pub const QUEUE_TX: usize = 1;

#[derive(Debug)]
pub struct VsockIdentity {
    guest_cid: [u8; 8],
}

impl VsockIdentity {
    /// The device of the guest with this context id.
    #[must_use]
    pub fn new(guest_cid: u32) -> Self {
        Self {
            guest_cid: u64::from(guest_cid).to_le_bytes(),
        }
    }
}

impl Identity for VsockIdentity {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }
    fn features(&self) -> u64 {
        F_COMMON
    }
    fn queue_sizes(&self) -> &[u16] {
        // The third queue is for events. There are none, because the context id never changes.
        &[QUEUE_SIZE, QUEUE_SIZE, 16]
    }
    fn config(&self) -> &[u8] {
        &self.guest_cid
    }
}
