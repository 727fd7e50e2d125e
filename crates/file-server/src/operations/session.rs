//! INIT and SYNCFS.

use rustix::fs::OFlags;
use rustix::fs::syncfs;
use rustix::io::Errno;

use crate::file_system::{FileSystem, Node};
use crate::protocol::initialization::Initialization;
use crate::protocol::reply::Reply;

/// Agrees on the protocol. A guest that restarts begins with it again.
pub fn initialize(file_system: &FileSystem, request: Initialization, reply: &mut Reply) -> Result<(), Errno> {
    let agreement = request.negotiate().ok_or(Errno::PROTO)?;
    file_system.reset();
    agreement.write(reply);
    file_system.set_initialized();
    Ok(())
}

/// Writes everything of the share's file system to its disk. Each share has its own file system in the guest.
pub fn sync(file_system: &FileSystem, node: u64) -> Result<(), Errno> {
    let Node::Inode(inode) = file_system.node(node)? else {
        return Ok(());
    };
    if inode.share.is_read_only() {
        return Ok(());
    }
    syncfs(inode.open(file_system.paths, OFlags::RDONLY)?)
}
