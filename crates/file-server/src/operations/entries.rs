//! Tells the guest about inodes: counts the lookup, and says how long the guest may use the answer.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::FileType;
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::file_system::FileSystem;
use crate::inode::{FileKey, FoundFile};
use crate::protocol::attributes::Entry;
use crate::share::Share;

/// How long the guest may use the name of a share: it stays as long as the virtual machine.
const SHARE_VALID_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// Counts a lookup of a file in the directory `parent`.
pub fn of_file(file_system: &FileSystem, found: FoundFile, parent: &FileKey) -> Result<Entry, Errno> {
    let is_other_device = found.key.device != parent.device;
    let valid_for = found.share.valid_for();
    counted(file_system, found, valid_for, is_other_device)
}

/// Counts a lookup of a share in the root directory.
pub fn of_share(file_system: &FileSystem, share: Arc<Share>) -> Result<Entry, Errno> {
    let root = fcntl_dupfd_cloexec(share.root(), 0)?;
    let found = FoundFile::of(root, share)?;
    counted(file_system, found, SHARE_VALID_FOR, true)
}

fn counted(
    file_system: &FileSystem,
    found: FoundFile,
    name_valid_for: Duration,
    is_other_device: bool,
) -> Result<Entry, Errno> {
    let mut attributes = file_system.attributes(&found.status)?;
    // The guest then gives it its own device number: inode numbers of two mounts, or of
    // two devices on one mount, may be equal.
    attributes.is_submount = is_other_device && found.file_type == FileType::Directory && !file_system.maps_users();
    let attributes_valid_for = found.share.valid_for();
    let inode = file_system.inodes.look_up(found)?;
    Ok(Entry {
        node: inode.number,
        name_valid_for,
        attributes_valid_for,
        attributes,
    })
}
