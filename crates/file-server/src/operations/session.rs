//! INIT and SYNCFS.

use std::os::fd::OwnedFd;
use std::sync::PoisonError;

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
            let shares = file_system.shares.all();
            let writable = shares.iter().filter(|share| !share.is_read_only());
            let roots = writable.map(|share| {
                let path = file_system.paths.of(share.root());
                openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            });
            sync_all(file_system, roots)
        }
        // Its shares are synchronized by requests about them.
        Node::Root => Ok(()),
        Node::Inode(inode) if inode.share.is_read_only() => Ok(()),
        Node::Inode(inode) => sync_all(file_system, [inode.open(file_system.paths, OFlags::RDONLY)]),
    }
}

/// Writes the file systems of open files to their disks, also after an error; returns the first one. One request at a
/// time does so: it concerns everything that the host has written, not only what the guest has.
fn sync_all(file_system: &FileSystem, roots: impl IntoIterator<Item = Result<OwnedFd, Errno>>) -> Result<(), Errno> {
    let _others_wait = file_system.syncs.lock().unwrap_or_else(PoisonError::into_inner);
    let results = roots.into_iter().map(|root| syncfs(root?));
    results.fold(Ok(()), Result::and)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::descriptor_paths::DescriptorPaths;
    use crate::file_system::Limits;
    use crate::share::Shares;

    #[test]
    fn an_error_does_not_keep_other_file_systems_from_being_written() {
        let limits = Limits::of_descriptors(4096);
        let file_system = FileSystem::new(DescriptorPaths::MOUNTED, Shares::default(), limits);
        let (opened, is_alone) = (Cell::new(0), Cell::new(true));
        let roots = [Some(Errno::NODEV), None, Some(Errno::IO), None].map(|error| {
            let (opened, is_alone, syncs) = (&opened, &is_alone, &file_system.syncs);
            move || {
                opened.set(opened.get() + 1);
                is_alone.set(is_alone.get() && syncs.try_lock().is_err());
                error.map_or_else(|| Ok(tempfile::tempfile().unwrap().into()), Err)
            }
        });
        let roots = roots.into_iter().map(|open| open());
        assert_eq!(sync_all(&file_system, roots), Err(Errno::NODEV));
        assert_eq!((opened.get(), is_alone.get()), (4, true));
    }
}
