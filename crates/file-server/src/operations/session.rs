//! INIT and SYNCFS.

use rustix::fs::{CWD, Mode, OFlags, openat, syncfs};
use rustix::io::Errno;

use crate::file_system::{FileSystem, Node};
use crate::protocol::initialization::Initialization;
use crate::protocol::reply::Reply;

/// Agrees on the protocol. A guest that restarts begins with it again.
pub fn initialize(file_system: &FileSystem, request: Initialization, reply: &mut Reply) -> Result<(), Errno> {
    let agreement = request.negotiate(file_system.maps_users()).ok_or(Errno::PROTO)?;
    file_system.reset();
    agreement.write(reply);
    file_system.set_initialized();
    Ok(())
}

/// Writes everything of the file systems of the guest's file system to their disks: those of all shares, or that of the
/// share that has its own file system in the guest.
pub fn sync(file_system: &FileSystem, node: u64) -> Result<(), Errno> {
    match file_system.node(node)? {
        Node::Root if file_system.maps_users() => {
            for share in file_system.shares.all() {
                if !share.is_read_only() {
                    let path = file_system.paths.of(share.root());
                    syncfs(openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?;
                }
            }
            Ok(())
        }
        // Its shares are synchronized by requests about them.
        Node::Root => Ok(()),
        Node::Inode(inode) if inode.share.is_read_only() => Ok(()),
        Node::Inode(inode) => syncfs(inode.open(file_system.paths, OFlags::RDONLY)?),
    }
}
