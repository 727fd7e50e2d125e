//! The guest's devices. [`virtio`] has what the virtio devices share. Each device's folder has `device.rs` (identity,
//! features, configuration space), `worker.rs` (its thread) and the formats it uses.

pub mod blk;
pub mod fs;
pub mod ioapic;
pub mod net;
pub mod rng;
pub mod serial;
pub mod virtio;
pub mod vsock;
