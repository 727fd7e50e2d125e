//! Basics shared by the host-side crates: error chains, locks between threads and between processes, files that are
//! replaced as a whole, private directories, generated names, starting processes.
//!
//! A module belongs here if several crates need it and it does not depend on Pods, images or VMs. Code that only the
//! program needs (its terminal, its standard error) stays in `src/`.

pub mod causes;
pub mod child;
pub mod file_lock;
pub mod generated_name;
pub mod lock;
pub mod private_directory;
pub mod replaced_file;
