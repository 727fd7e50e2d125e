//! Before it reads the first byte, the process gives up everything but its sockets: the host's files, its networks,
//! all privileges that are not about files, and every system call that it does not make.
//!
//! What remains are the descriptors of shares, which the supervisor sends later. They refer to private mounts without
//! devices and set-user-ID programs, and nothing leads out of them: `..` of a mount's root is the root itself.

mod capabilities;
mod descriptors;
mod error;
mod namespaces;
mod seccomp;

use std::os::fd::RawFd;

use crate::descriptor_paths::DescriptorPaths;
pub use descriptors::check_sockets;
pub use error::ConfinementError;

/// What a confined process knows about itself.
#[derive(Debug, Clone, Copy)]
pub struct Confined {
    /// How it finds its descriptors.
    pub paths: DescriptorPaths,
    /// How many descriptors it may have.
    pub descriptors: usize,
}

/// Confines the process, which must have one thread. Descriptors after `last` are closed.
pub fn enter(last: RawFd) -> Result<Confined, ConfinementError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(ConfinementError::Threads(threads));
    }
    descriptors::close_after(last)?;
    let descriptors = descriptors::limit()?;
    namespaces::leave_host()?;
    capabilities::keep_those_for_files()?;
    seccomp::install()?;
    Ok(Confined {
        paths: DescriptorPaths::WORKING_DIRECTORY,
        descriptors,
    })
}
