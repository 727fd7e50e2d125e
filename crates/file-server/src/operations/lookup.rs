//! LOOKUP and READLINK.

use rustix::fs::{FileType, readlinkat};
use rustix::io::Errno;

use super::entries;
use crate::file_system::{FileSystem, Node};
use crate::protocol::attributes::write_entry;
use crate::protocol::name::Name;
use crate::protocol::reply::Reply;

pub fn lookup(file_system: &FileSystem, parent: u64, name: Name<'_>, reply: &mut Reply) -> Result<(), Errno> {
    // A name that does not exist is an error, which the guest does not cache: it may exist the next time.
    let entry = match file_system.node(parent)? {
        Node::Root => {
            let share = file_system.shares.find(name).ok_or(Errno::NOENT)?;
            entries::of_share(file_system, share)?
        }
        Node::Inode(parent) => entries::of_file(file_system, parent.find(name)?, &parent.key)?,
    };
    write_entry(reply, &entry);
    Ok(())
}

/// The target is text for the guest's kernel, which follows the link among the guest's own files.
pub fn read_link(file_system: &FileSystem, node: u64, reply: &mut Reply) -> Result<(), Errno> {
    let inode = file_system.inode(node)?;
    if inode.file_type != FileType::Symlink {
        return Err(Errno::INVAL);
    }
    let target = readlinkat(&*inode, c"", Vec::with_capacity(256))?;
    reply.bytes(target.to_bytes());
    Ok(())
}
