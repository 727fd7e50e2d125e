//! The host side of microkube: everything but the virtual machine monitor and the agent in the guest.
//!
//! Dependencies point one way: `cli` → `config` → `pod` → `objects`, `privileged` → `emulated_host`, `network`,
//! `volume` → `state` → `build_id`, `frame_header`, `installed_files`, `stderr`, `terminal`. Independent parts, and
//! those shared with other programs, are crates under `crates/`. `tests/structure` checks this.

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube;

mod build_id;
pub mod cli;
pub mod config;
pub mod emulated_host;
mod frame_header;
#[cfg(test)]
#[path = "../tests/fuzz/targets/microkube/mod.rs"]
mod fuzz_targets;
mod installed_files;
#[cfg(test)]
#[path = "../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
pub mod network;
pub mod objects;
pub mod pod;
pub mod privileged;
pub mod state;
mod stderr;
pub mod terminal;
pub mod volume;

#[cfg(test)]
use kept_inputs::fuzz_target;
