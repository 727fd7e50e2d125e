//! OPEN, FLUSH, RELEASE, OPENDIR and RELEASEDIR.

use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use rustix::fs::{FileType, FlockOperation, OFlags, flock};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use crate::credentials::Credentials;
use crate::file_status;
use crate::file_system::{FileSystem, Node};
use crate::handles::{Handle, OpenDirectory, OpenFile};
use crate::inode::Inode;
use crate::locks::OwnerKey;
use crate::protocol::bodies::{Open, Release};
use crate::protocol::reply::Reply;

/// `FOPEN_KEEP_CACHE`: the guest keeps what it has cached of the file.
const KEEP_CACHE: u32 = 1 << 1;

/// The flags with which the host's file is opened.
///
/// `O_APPEND` is not among them: each write says whether it appends. Neither is `O_DIRECT`: it goes around the guest's
/// page cache, while the host's cache keeps all Pods coherent, whatever the alignment of the guest's memory is.
pub fn host_flags(guest: u32) -> Result<OFlags, Errno> {
    let guest = OFlags::from_bits_retain(guest);
    let access = guest & OFlags::ACCMODE;
    if ![OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR].contains(&access) {
        return Err(Errno::INVAL);
    }
    Ok(access | guest & (OFlags::TRUNC | OFlags::SYNC | OFlags::DSYNC | OFlags::NOATIME))
}

fn is_writable(flags: OFlags) -> bool {
    flags & OFlags::ACCMODE != OFlags::RDONLY
}

pub fn open(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    node: u64,
    request: Open,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let Node::Inode(inode) = file_system.node(node)? else {
        return Err(Errno::ISDIR);
    };
    let host_flags = host_flags(request.flags)?;
    if is_writable(host_flags) || host_flags.contains(OFlags::TRUNC) {
        inode.share.check_writable()?;
    }
    match inode.file_type {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR),
        FileType::Symlink => return Err(Errno::LOOP),
        _ => return Err(Errno::NXIO),
    }
    let open = || inode.open(file_system.paths, host_flags);
    let opened = if request.drop_privileges {
        credentials.without_set_id(open)?
    } else {
        open()?
    };
    // Otherwise the guest would read the file again from the host each time it opens it.
    let keep_cache = inode.is_unchanged(&file_status::of(&opened)?, SystemTime::now());
    add_file(file_system, inode, opened, request.flags, keep_cache, reply)
}

/// Tells the guest the number of an open file.
pub fn add_file(
    file_system: &FileSystem,
    inode: Arc<Inode>,
    descriptor: OwnedFd,
    flags: u32,
    keep_cache: bool,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let file = OpenFile {
        inode,
        descriptor: Arc::new(descriptor),
        is_writable: is_writable(OFlags::from_bits_retain(flags)),
        is_passed: AtomicBool::new(false),
    };
    let number = file_system.handles.add(Handle::File(Arc::new(file)))?;
    write_open(reply, number, if keep_cache { KEEP_CACHE } else { 0 });
    Ok(())
}

/// Writes `struct fuse_open_out`.
fn write_open(reply: &mut Reply, handle: u64, open_flags: u32) {
    reply.u64(handle);
    reply.u32(open_flags);
    reply.u32(0);
}

/// A process in the guest closed one of its descriptors of the file.
pub fn flush(file_system: &FileSystem, node: u64, handle: u64, lock_owner: u64) -> Result<(), Errno> {
    let file = file_system.handles.file(handle, node)?;
    file_system.locks.close_owner(OwnerKey {
        inode: node,
        owner: lock_owner,
    });
    if !file.is_writable {
        return Ok(());
    }
    // Network file systems report errors of earlier writes when a descriptor is closed (close(2)).
    let copy = fcntl_dupfd_cloexec(&file.descriptor, 0)?;
    // SAFETY: the descriptor is owned by this function and not used any more.
    if unsafe { libc::close(copy.into_raw_fd()) } < 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    Ok(())
}

/// Ends the locks of an open file that is about to be closed.
pub fn end_locks(file_system: &FileSystem, request: Release) -> Result<(), Errno> {
    let Handle::File(file) = file_system.handles.get(request.handle)? else {
        return Err(Errno::BADF);
    };
    file_system.locks.close_handle(file.inode.number, request.handle);
    if request.unlock_flock {
        // Explicitly, because a request may keep the descriptor open for a moment.
        flock(&file.descriptor, FlockOperation::Unlock)?;
    }
    Ok(())
}

pub fn release(file_system: &FileSystem, request: Release) -> Result<(), Errno> {
    let ended = end_locks(file_system, request);
    if ended == Err(Errno::BADF) {
        return ended;
    }
    file_system.handles.remove(request.handle)?;
    ended
}

pub fn open_directory(file_system: &FileSystem, node: u64, reply: &mut Reply) -> Result<(), Errno> {
    let handle = match file_system.node(node)? {
        Node::Root => Handle::Root(file_system.shares.all().into()),
        Node::Inode(inode) => {
            inode.check_directory()?;
            let descriptor = inode.open(file_system.paths, OFlags::RDONLY | OFlags::DIRECTORY)?;
            Handle::Directory(Arc::new(OpenDirectory {
                inode,
                descriptor: Mutex::new(descriptor),
            }))
        }
    };
    let number = file_system.handles.add(handle)?;
    write_open(reply, number, 0);
    Ok(())
}

pub fn release_directory(file_system: &FileSystem, handle: u64) -> Result<(), Errno> {
    if let Handle::File(_) = file_system.handles.get(handle)? {
        return Err(Errno::BADF);
    }
    file_system.handles.remove(handle).map(drop)
}
