//! What the network device says of itself (sections 5.1.3 and 5.1.4).

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;

const DEVICE_TYPE: u32 = 1;
/// Places of each queue.
pub const QUEUE_SIZE: u16 = 256;

/// Queue of frames for the guest.
pub const QUEUE_RX: usize = 0;
/// Queue of frames of the guest.
pub const QUEUE_TX: usize = 1;

/// The guest's frames may lack their checksum.
const F_CSUM: u64 = 1;
/// Frames for the guest may.
pub const F_GUEST_CSUM: u64 = 1 << 1;
const F_MAC: u64 = 1 << 5;
/// Frames for the guest may be unsegmented TCP over IPv4.
pub const F_GUEST_TSO4: u64 = 1 << 7;
/// Over IPv6.
pub const F_GUEST_TSO6: u64 = 1 << 8;
const F_HOST_TSO4: u64 = 1 << 11;
const F_HOST_TSO6: u64 = 1 << 12;
/// A frame for the guest may fill several buffers.
pub const F_MRG_RXBUF: u64 = 1 << 15;

/// Identity of the network device.
#[derive(Debug)]
pub struct NetIdentity {
    mac: [u8; 6],
}

impl NetIdentity {
    /// A device with this address.
    #[must_use]
    pub fn new(mac: [u8; 6]) -> Self {
        Self { mac }
    }
}

impl Identity for NetIdentity {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
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
