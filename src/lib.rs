//! The host side of microkube: everything but the virtual machine monitor and the agent in the guest.
//!
//! Dependencies point one way: `cli` → `pod` → `image`, `machine` (the emulated host), `manifest`, `network`, `volume` → `state` →
//! `causes`, `child`, `frame_header`, `lock`, `stderr`, `terminal`. `tests/structure` holds the crate to it.

// By these names the fuzz targets know this crate and their fuzzer.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube;

mod causes;
pub mod child;
pub mod cli;
mod frame_header;
pub mod image;
#[cfg(test)]
#[path = "../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod lock;
pub mod machine;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod state;
mod stderr;
pub mod terminal;
pub mod volume;

#[cfg(test)]
use kept_inputs::fuzz_target;
