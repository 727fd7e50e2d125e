//! The life of a Pod: from a validated manifest to the last resource released.
//!
//! `lifecycle` decides, `supervisor` carries out; `prepare`, `virtual_machine`, `sandbox` and `output` are the supervisor's
//! hands. `attach` is how a command line talks to a supervisor, `sweep` cleans up after dead ones. Text in manifests is
//! understood in `manifest`, not here.

pub mod artifacts;
pub mod attach;
mod container_spec;
mod guest_log;
pub mod lifecycle;
mod output;
mod prepare;
mod sandbox;
mod simple_lifecycle;
mod supervisor;
mod sweep;
pub mod timings;
mod virtual_machine;
mod vsock_link;

pub use supervisor::Supervisor;
pub use sweep::sweep;
