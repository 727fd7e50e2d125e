//! The life of a Pod, from a validated manifest to the release of its last resource.
//!
//! `lifecycle` decides; `supervisor` carries the decisions out with the other modules. `container_images` and
//! `host_resources` get what a boot needs, `boot_plan` plans it, `virtual_machine` and `sandbox` run it.
//! `guest_streams`, `guest_process` and `guest_port` serve the guest, and `probe` performs probes and hooks. `operations` has
//! everything that other processes can do with Pods. `client` connects to a supervisor, and `sweep` cleans up after
//! dead ones. The crate `microkube_manifest` reads manifests.

mod agent;
mod agent_connection;
mod boot_plan;
mod boot_slot;
mod boot_timeout;
mod bounded_log;
pub mod changes;
mod claims;
pub mod client;
mod container_images;
mod container_order;
mod container_spec;
mod container_streams;
mod file_volume_parts;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod guest_log;
mod guest_port;
mod guest_process;
mod guest_streams;
mod guest_text;
mod host_resources;
mod host_volumes;
#[cfg(test)]
mod kept_records;
mod launch;
mod layer_disk;
pub mod lifecycle;
mod log_place;
pub mod logs;
mod machine_plan;
mod node_objects;
pub mod object_event_changes;
mod object_watch;
pub mod operations;
mod patience;
mod pod_environment;
mod pod_on_node;
mod pod_update;
mod pod_version;
pub mod probe;
mod projected_volumes;
mod pull_secrets;
pub mod recorded_pod;
mod release;
mod resolved_pod;
mod sandbox;
mod seccomp_profile;
pub mod security_policy;
mod service_account_token;
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
mod written_volumes;

pub use boot_timeout::{BootTimeoutError, MAX_BOOT_TIMEOUT_SECONDS, boot_timeout, default_boot_timeout};
pub use bounded_log::SupervisorLog;
pub use container_order::containers;
pub use launch::{LaunchError, supervisor_log};
pub use log_place::LogPlace;
pub use supervisor::Supervisor;
pub use sweep::{recover, sweep};
