//! Paths of the process's own descriptors: what an `O_PATH` descriptor refers to can be opened, and its extended
//! attributes can be read, only by such a path (openat(2), `O_PATH`; xattr(7)).
//!
//! No part of such a path comes from a guest. The kernel resolves it to exactly the file that the descriptor refers to,
//! and never follows a symbolic link that it finds there.

use std::os::fd::{AsFd, AsRawFd};

/// Where the process's descriptors are found.
#[derive(Debug, Clone, Copy)]
pub struct DescriptorPaths {
    directory: &'static str,
}

impl DescriptorPaths {
    /// For a process that sees the file system of procfs.
    pub const MOUNTED: Self = Self {
        directory: "/proc/self/fd/",
    };

    /// For a process whose working directory is its own `/proc/self/fd`, and whose root directory is empty.
    pub const WORKING_DIRECTORY: Self = Self { directory: "" };

    /// The path of a descriptor.
    pub fn of(self, descriptor: impl AsFd) -> String {
        format!("{}{}", self.directory, descriptor.as_fd().as_raw_fd())
    }
}
