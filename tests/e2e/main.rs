//! End-to-end tests: real kernel, real KVM, real registry, real images.
//!
//! They need root and a KVM that can run guests, and fail without it; in that case `make test` runs them in the
//! emulated host. They run one after another, because they count what is left on the host.

mod applications;
mod bad_input;
mod bad_places;
mod cases;
mod chaos;
mod claims;
mod completion;
mod configuration_environment;
mod configuration_errors;
mod configuration_updates;
mod configuration_volumes;
mod containers;
mod copying;
mod debug;
mod detached;
mod detached_pod;
mod ephemeral_storage;
mod exec;
mod faults;
mod guest_kernel;
mod hooks;
mod host;
mod host_paths;
mod hostile_guest;
mod images;
mod images_store;
mod independence;
mod layered_image;
mod leftovers;
mod lifecycle;
mod load;
mod logs;
mod manifests;
mod mounts;
mod network;
mod nginx;
mod object_apply;
mod object_changes;
mod object_verbs;
mod object_watch;
mod objects;
mod pod_changes;
mod probes;
mod readiness_gates;
mod recovery;
mod secrets_stay_secret;
mod security_context;
mod termination;
mod timeline;
mod upgrade;
mod user_namespaces;
mod vmm;
