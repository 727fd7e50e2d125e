//! The life of a Pod: from a validated manifest to the last resource released.
//!
//! `lifecycle` decides, `supervisor` carries out; `prepare`, `virtual_machine`, `sandbox`, `output` and `probe` (what probes and
//! hooks do) are the supervisor's hands. `operations` is what others do with Pods; `attach` is how they talk to a supervisor, `sweep` cleans up
//! after dead ones. Text in manifests is understood in `manifest`, not here.

mod agent;
mod agent_connection;
mod boot_slot;
mod bounded_log;
pub mod changes;
pub mod client;
mod container_spec;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest_log;
mod guest_process;
mod guest_text;
#[cfg(test)]
mod kept_records;
mod launch;
pub mod lifecycle;
pub mod logs;
mod machine_plan;
pub mod operations;
mod output;
mod patience;
mod prepare;
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
pub use launch::{LaunchError, supervisor_log};
pub use prepare::containers;
pub use supervisor::Supervisor;
pub use sweep::{recover, sweep};
