//! The host side of microkube: everything but the virtual machine monitor and the agent in the guest.
//!
//! Dependencies point one way: `cli` → `pod` → `image`, `network`, `volume`, `state`. `machine` (the emulated host) stands
//! beside them and is used by `cli` only, `terminal`, `stderr` and `child` are used by all.

pub mod child;
pub mod cli;
pub mod image;
pub mod machine;
pub mod manifest;
pub mod network;
pub mod pod;
pub mod state;
mod stderr;
pub mod terminal;
pub mod volume;
