//! Shared parts of the virtio devices: the MMIO transport, interrupts, descriptor chains, and each device's thread.
//!
//! Section numbers refer to the Virtual I/O Device (VIRTIO) specification 1.2.

pub mod chain;
#[cfg(any(test, fuzzing))]
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
/// Feature bit: each side states at which index it wants to be notified.
pub const F_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
/// The features that every device here offers.
pub const F_COMMON: u64 = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX;

/// The guest broke the rules of its device; the device stops and asks for a reset.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A ring that contradicts itself.
    #[error("invalid virtqueue")]
    Queue(#[source] virtio_queue::Error),
    /// A malformed descriptor chain.
    #[error("invalid descriptor chain: {0}")]
    Chain(&'static str),
    #[error("a buffer lies outside guest memory")]
    Memory(#[source] vm_memory::GuestMemoryError),
    /// A request that the device's section of the specification forbids.
    #[error("invalid request: {0}")]
    Request(&'static str),
}
