//! Identity, features and configuration space of the network device (sections 5.1.3 and 5.1.4).

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

/// Number of entries of each queue.
pub const QUEUE_SIZE: u16 = 256;

/// Queue of frames to the guest.
pub const QUEUE_RX: usize = 0;
/// Queue of frames from the guest.
pub const QUEUE_TX: usize = 1;

/// Frames from the guest may lack a checksum.
const F_CSUM: u64 = 1 << VIRTIO_NET_F_CSUM;
/// Frames to the guest may lack a checksum.
pub const F_GUEST_CSUM: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM;
const F_MAC: u64 = 1 << VIRTIO_NET_F_MAC;
/// Frames to the guest may be unsegmented TCP over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << VIRTIO_NET_F_GUEST_TSO4;
/// Frames to the guest may be unsegmented TCP over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << VIRTIO_NET_F_GUEST_TSO6;
const F_HOST_TSO4: u64 = 1 << VIRTIO_NET_F_HOST_TSO4;
const F_HOST_TSO6: u64 = 1 << VIRTIO_NET_F_HOST_TSO6;
/// A frame to the guest may span several buffers.
pub const F_MRG_RXBUF: u64 = 1 << VIRTIO_NET_F_MRG_RXBUF;

#[derive(Debug)]
pub struct NetIdentity {
    mac: [u8; 6],
}

impl NetIdentity {
    /// A device with this MAC address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self { mac }
    }
}

impl Identity for NetIdentity {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }
    fn features(&self) -> u64 {
        let guest = F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_MRG_RXBUF;
        F_COMMON | F_MAC | F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | guest
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE, QUEUE_SIZE]
    }
    fn config(&self) -> &[u8] {
        &self.mac
    }
}
