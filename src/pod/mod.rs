//! The life of a Pod: from a validated manifest to the last resource released.
//!
//! `lifecycle` decides, and `supervisor` carries it out with the modules beside it: `container_images` and `host_resources` get what a boot needs,
//! `boot_plan` plans it, `virtual_machine` and `sandbox` are what is booted, `guest_streams` and `guest_process` serve the guest, `probe` has
//! probes and hooks. `operations` is for everyone else: what can be done with Pods. `client` connects to a supervisor, `sweep` cleans up after
//! dead ones. Manifests are read in `microkube_manifest`, not here.

mod agent;
mod agent_connection;
mod boot_plan;
mod boot_slot;
mod bounded_log;
pub mod changes;
pub mod client;
mod container_images;
mod container_order;
mod container_spec;
mod container_streams;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest_log;
mod guest_process;
mod guest_streams;
mod guest_text;
mod host_resources;
#[cfg(test)]
mod kept_records;
mod launch;
pub mod lifecycle;
pub mod logs;
mod machine_plan;
pub mod operations;
mod patience;
pub mod probe;
pub mod recorded_pod;
mod release;
mod resolved_pod;
mod sandbox;
mod stdin;
mod supervisor;
pub mod supervisor_protocol;
mod sweep;
#[cfg(test)]
pub(crate) mod test_pods;
pub mod timings;
mod virtual_machine;
mod vmm_events;
mod vsock_link;

pub use bounded_log::SupervisorLog;
pub use container_order::containers;
pub use launch::{LaunchError, supervisor_log};
pub use supervisor::Supervisor;
pub use sweep::{recover, sweep};
