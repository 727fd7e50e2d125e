//! UNLINK, RMDIR and RENAME.

use rustix::fs::{AtFlags, RenameFlags, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::file_system::FileSystem;
use crate::protocol::name::Name;

/// What a rename may be asked for. `RENAME_WHITEOUT` is refused, because it creates a device node.
const RENAME_FLAGS: RenameFlags = RenameFlags::NOREPLACE.union(RenameFlags::EXCHANGE);

pub fn unlink(file_system: &FileSystem, parent: u64, name: Name<'_>) -> Result<(), Errno> {
    remove(file_system, parent, name, AtFlags::empty())
}

pub fn remove_directory(file_system: &FileSystem, parent: u64, name: Name<'_>) -> Result<(), Errno> {
    remove(file_system, parent, name, AtFlags::REMOVEDIR)
}

fn remove(file_system: &FileSystem, parent: u64, name: Name<'_>, flags: AtFlags) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    unlinkat(&*parent, name.as_c_str(), flags)
}

/// Renames an entry, given by the directory and the name. The host's kernel refuses to move a file to another share.
pub fn rename(
    file_system: &FileSystem,
    (parent, name): (u64, Name<'_>),
    (new_parent, new_name): (u64, Name<'_>),
    flags: u32,
) -> Result<(), Errno> {
    let flags = RenameFlags::from_bits_retain(flags);
    if !RENAME_FLAGS.contains(flags) {
        return Err(Errno::INVAL);
    }
    let parent = file_system.writable_inode(parent)?;
    let new_parent = file_system.writable_inode(new_parent)?;
    parent.check_directory()?;
    new_parent.check_directory()?;
    renameat_with(&*parent, name.as_c_str(), &*new_parent, new_name.as_c_str(), flags)
}
