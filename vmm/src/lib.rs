//! The virtual machine monitor: boots a Linux guest on KVM with a handful of virtio devices, and
//! treats the guest as hostile.
//!
//! It does not depend on Pods, containers, images or YAML, and uses threads and epoll, never tokio.

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_vmm;

pub mod boot;
pub mod bus;
mod causes;
pub mod config;
pub mod cpu;
pub mod devices;
#[cfg(test)]
#[path = "../../tests/fuzz/targets/microkube-vmm/mod.rs"]
mod fuzz_targets;
pub mod jail;
#[cfg(test)]
#[allow(clippy::print_stdout)] // The harness takes it.
#[path = "../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod lock;
pub mod memory;
pub mod probe;
pub mod report;
pub mod supervised;
pub mod vm;
pub mod vsock_control;

#[cfg(test)]
use kept_inputs::fuzz_target;
