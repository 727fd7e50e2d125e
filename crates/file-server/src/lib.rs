//! The file server of microkube's shares: it serves the FUSE requests of one Pod's virtual machine on directories and
//! files of the host.
//!
//! The virtual machine monitor passes requests and replies over a stream socket; this process never has the guest's
//! memory. The guest is an attacker: requests are bounded and checked (`protocol`), names are single components that
//! are looked up below an open directory (`inode`), what a guest holds is limited (`inodes`, `handles`, `locks`), and
//! the process has nothing of the host but its shares (`confinement`).

pub mod confinement;
pub mod control;
pub mod credentials;
pub mod descriptor_paths;
mod file_numbers;
mod file_status;
pub mod file_system;
#[cfg(test)]
#[path = "../../../tests/fuzz/targets/microkube-file-server/mod.rs"]
mod fuzz_targets;
mod handles;
mod inode;
mod inodes;
#[cfg(test)]
#[path = "../../../tests/fuzz/kept_inputs.rs"]
mod kept_inputs;
mod locks;
pub mod operations;
pub mod protocol;
pub mod replies;
mod requests;
pub mod server;
pub mod share;
#[cfg(test)]
mod tests;

// The fuzz targets refer to this crate and their fuzzer by these names.
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
extern crate self as microkube_file_server;

#[cfg(test)]
use kept_inputs::fuzz_target;
