//! What virtio devices share: the MMIO transport, interrupts, descriptor chains, and the thread each device runs in.
//!
//! Section numbers refer to the Virtual I/O Device (VIRTIO) specification 1.2.

pub mod chain;
#[cfg(test)]
pub mod driver;
pub mod held;
pub mod interrupt;
pub mod mmio;
pub mod queue;
pub mod turn;
pub mod worker;

/// Feature bit: the device follows version 1 of the specification; required.
pub const F_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// Feature bit: descriptors may refer to tables of descriptors.
pub const F_INDIRECT_DESC: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
/// Feature bit: both sides say at which index they want to be notified.
pub const F_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// What every device here offers.
pub const F_COMMON: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// The guest broke the rules of its device; the device stops and asks for a reset.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A ring that contradicts itself.
    #[error("invalid virtqueue")]
    Queue(#[source] virtio_queue::Error),
    /// A descriptor chain that is not one.
    #[error("invalid descriptor chain: {0}")]
    Chain(&'static str),
    /// Buffers that do not lie in RAM.
    #[error("a buffer lies outside guest memory")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// A request that the device's own section forbids.
    #[error("invalid request: {0}")]
    Request(&'static str),
}
