//! End-to-end tests: real kernel, real KVM, real registry, real images.
//!
//! They need root and a KVM that can run guests, and fail where there is none; `make test` runs them in the emulated host
//! then. They run one after the other, because they count what is left on the host.

mod bad_input;
mod bad_places;
mod chaos;
mod completion;
mod containers;
mod copying;
mod detached;
mod detached_pod;
mod exec;
mod faults;
mod guest_kernel;
mod hooks;
mod host;
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
mod probes;
mod recovery;
mod termination;
mod timeline;
mod upgrade;
mod vmm;
