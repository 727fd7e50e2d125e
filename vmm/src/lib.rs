//! The virtual machine monitor: boots a Linux guest on KVM with a handful of virtio devices, and
//! treats the guest as hostile.
//!
//! It does not depend on Pods, containers, images or YAML, and uses threads and epoll, never tokio.

pub mod boot;
pub mod bus;
mod causes;
pub mod config;
pub mod cpu;
pub mod devices;
pub mod jail;
mod lock;
pub mod memory;
pub mod probe;
pub mod report;
pub mod supervised;
pub mod vm;
pub mod vsock_control;
