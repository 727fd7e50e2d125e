//! The host side of microkube: everything but the virtual machine monitor and the agent in the guest.
//!
//! Dependencies point one way: `cli` → `pod` → `privileged` → `emulated_host`, `network`, `volume` → `state` →
//! `build_id`, `frame_header`, `stderr`, `terminal`. What is a part by itself, or shared with one, is a crate under `crates/`.
//! `tests/structure` holds the crate to it.

// By these names the fuzz targets know this crate and their fuzzer.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube;

mod build_id;
pub mod cli;
pub mod emulated_host;
mod frame_header;
#[cfg(test)]
#[path = "../tests/fuzz/targets/microkube/mod.rs"]
mod fuzz_targets;
#[cfg(test)]
#[path = "../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
pub mod network;
pub mod pod;
pub mod privileged;
pub mod state;
mod stderr;
pub mod terminal;
pub mod volume;

#[cfg(test)]
use kept_inputs::fuzz_target;
