//! The guest's devices. What they share on the virtio side is in [`virtio`]; each device folder has `device.rs` (identity,
//! features, configuration space), `worker.rs` (what its thread does) and the formats it speaks.

pub mod blk;
pub mod ioapic;
pub mod net;
pub mod rng;
pub mod serial;
pub mod virtio;
pub mod vsock;
