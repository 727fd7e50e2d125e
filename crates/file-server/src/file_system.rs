//! What all operations of one Pod's file server work on.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustix::fs::Statx;
use rustix::io::Errno;

use crate::descriptor_paths::DescriptorPaths;
use crate::file_numbers::FileNumbers;
use crate::file_status;
use crate::handles::Handles;
use crate::inode::{FileKey, Inode};
use crate::inodes::{Inodes, ROOT};
use crate::locks::Locks;
use crate::protocol::attributes::Attributes;
use crate::share::Shares;

/// Descriptors beyond those of inodes, handles and locks: sockets, standard streams, shares, and those that requests in
/// progress open for a moment.
const OTHER_DESCRIPTORS: usize = 2 * crate::share::MAX_SHARES;

/// Locked ranges of files are no descriptors, but take the host's memory, and its time: the kernel searches all ranges
/// of a file for each of its locks, also those of other Pods.
const MAX_LOCK_RANGES: usize = 16_384;

/// How much a guest may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub inodes: usize,
    /// Open files and directories.
    pub handles: usize,
    /// Directories among `handles`.
    pub directories: usize,
    /// Owners of POSIX locks.
    pub lock_owners: usize,
    /// Ranges that all owners have locked, and handles through which they locked. Each range is a structure of 192 bytes
    /// in the host's kernel.
    pub lock_ranges: usize,
}

impl Limits {
    /// Divides the descriptors that the process may have. Each handle may keep its inode although the guest has
    /// forgotten it.
    pub fn of_descriptors(descriptors: usize) -> Self {
        let available = descriptors.saturating_sub(OTHER_DESCRIPTORS);
        let lock_owners = (available / 16).min(4096);
        let handles = (available / 8).min(65_536);
        Self {
            inodes: available - lock_owners - 2 * handles,
            handles,
            directories: (handles / 4).min(4096),
            lock_owners,
            lock_ranges: MAX_LOCK_RANGES,
        }
    }
}

/// The state of one Pod's file server.
#[derive(Debug)]
pub struct FileSystem {
    pub paths: DescriptorPaths,
    pub shares: Shares,
    pub inodes: Inodes,
    pub handles: Handles,
    pub locks: Locks,
    /// Held by the request that writes file systems to their disks.
    pub syncs: Mutex<()>,
    /// Whether guest and server have agreed on the protocol.
    is_initialized: AtomicBool,
    numbers: FileNumbers,
    maps_users: bool,
}

/// What the number of an inode refers to.
#[derive(Debug)]
pub enum Node {
    /// The root directory, whose entries are the shares.
    Root,
    Inode(Arc<Inode>),
}

impl FileSystem {
    pub fn new(paths: DescriptorPaths, shares: Shares, limits: Limits) -> Self {
        Self {
            paths,
            shares,
            inodes: Inodes::new(limits.inodes),
            handles: Handles::new(limits.handles, limits.directories),
            locks: Locks::new(limits.lock_owners, limits.lock_ranges),
            syncs: Mutex::default(),
            is_initialized: AtomicBool::new(false),
            numbers: FileNumbers::default(),
            maps_users: false,
        }
    }

    /// Lets the guest map the users of its mounts, for a Pod with its own user namespace. All shares are then one file
    /// system in the guest: Linux 6.12 maps no users of submounts.
    #[must_use]
    pub fn with_mapped_users(self) -> Self {
        Self {
            maps_users: true,
            ..self
        }
    }

    /// See [`Self::with_mapped_users`].
    pub fn maps_users(&self) -> bool {
        self.maps_users
    }

    /// The attributes that the guest is told.
    pub fn attributes(&self, status: &Statx) -> Result<Attributes, Errno> {
        let mut attributes = file_status::attributes(status);
        attributes.inode = self.inode_number(&FileKey::of(status))?;
        Ok(attributes)
    }

    /// The inode number that the guest is told.
    pub fn inode_number(&self, file: &FileKey) -> Result<u64, Errno> {
        if self.maps_users {
            self.numbers.of(file, &self.shares)
        } else {
            Ok(file.inode)
        }
    }

    pub fn is_initialized(&self) -> bool {
        self.is_initialized.load(Ordering::Acquire)
    }

    pub fn set_initialized(&self) {
        self.is_initialized.store(true, Ordering::Release);
    }

    /// Forgets everything of a guest that has unmounted the file system.
    pub fn reset(&self) {
        self.is_initialized.store(false, Ordering::Release);
        self.locks.clear();
        self.handles.clear();
        self.inodes.clear();
    }

    pub fn node(&self, number: u64) -> Result<Node, Errno> {
        if number == ROOT {
            return Ok(Node::Root);
        }
        self.inodes.get(number).map(Node::Inode)
    }

    /// An inode of a share; the root directory is refused, because it cannot be changed.
    pub fn inode(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        match self.node(number)? {
            Node::Root => Err(Errno::ROFS),
            Node::Inode(inode) => Ok(inode),
        }
    }

    /// An inode that the request changes.
    pub fn writable_inode(&self, number: u64) -> Result<Arc<Inode>, Errno> {
        let inode = self.inode(number)?;
        inode.share.check_writable()?;
        Ok(inode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_guest_may_hold_fits_into_the_descriptors() {
        for descriptors in [0, 100, 1024, 4096, 65_536, 524_288, 1 << 20] {
            let limits = Limits::of_descriptors(descriptors);
            let held = limits.inodes + 2 * limits.handles + limits.lock_owners;
            assert!(held <= descriptors.saturating_sub(OTHER_DESCRIPTORS), "{descriptors}");
        }
        assert!(Limits::of_descriptors(1 << 20).inodes > 900_000);
    }
}
