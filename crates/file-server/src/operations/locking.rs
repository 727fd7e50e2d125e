//! GETLK, SETLK and SETLKW, for locks by fcntl(2) and flock(2).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::outcome::{Outcome, without_special_meaning};
use crate::file_system::FileSystem;
use crate::handles::OpenFile;
use crate::locks::ranges::Lock;
use crate::locks::{OwnerKey, description};
use crate::protocol::header::RequestHeader;
use crate::protocol::locks::{LockRequest, LockType, write_lock};
use crate::protocol::reply::Reply;
use crate::replies::Replies;

/// Stack of a thread that waits for a lock.
const STACK_BYTES: usize = 64 * 1024;

/// Finds a lock that conflicts with the requested one.
pub fn get(file_system: &FileSystem, node: u64, request: LockRequest, reply: &mut Reply) -> Result<(), Errno> {
    let file = file_system.handles.file(request.handle, node)?;
    if request.lock_type == LockType::Unlock {
        return Err(Errno::INVAL);
    }
    let owner = file_system.locks.existing(key(&file, request));
    // The file's own descriptor has no locks, so that all locks conflict with it.
    let descriptor = owner
        .as_ref()
        .map_or(file.descriptor.as_ref(), |owner| owner.file().descriptor());
    match description::conflicting(descriptor, request.lock_type, request.range)? {
        Some((lock_type, range)) => write_lock(reply, range, lock_type),
        None => write_lock(reply, request.range, LockType::Unlock),
    }
    Ok(())
}

/// Sets or ends a lock without waiting.
pub fn set(file_system: &FileSystem, node: u64, request: LockRequest) -> Result<(), Errno> {
    let file = file_system.handles.file(request.handle, node)?;
    apply(file_system, &file, request, false)
}

/// Sets a lock as soon as it is possible. If another owner has a conflicting one, a thread waits and replies.
pub fn wait(file_system: &Arc<FileSystem>, replies: &Replies, header: &RequestHeader, request: LockRequest) -> Outcome {
    let file = match file_system.handles.file(request.handle, header.node) {
        Ok(file) => file,
        Err(error) => return Outcome::Done(Err(error)),
    };
    match apply(file_system, &file, request, false) {
        Err(Errno::AGAIN) => {}
        result => return Outcome::Done(result.map_err(without_special_meaning)),
    }
    let Some(slot) = file_system.locks.waiting.take() else {
        return Outcome::Done(Err(Errno::NOLCK));
    };
    let (file_system, replies, unique) = (file_system.clone(), replies.clone(), header.unique);
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        let result = apply(&file_system, &file, request, true).map_err(without_special_meaning);
        // Before the reply, after which the guest may wait again.
        drop(slot);
        // If the socket is closed, so is the virtual machine.
        let _ = replies.send(unique, &mut Reply::new(Vec::new()), result);
    });
    match thread {
        Ok(_) => Outcome::Later,
        Err(_) => Outcome::Done(Err(Errno::NOLCK)),
    }
}

fn key(file: &OpenFile, request: LockRequest) -> OwnerKey {
    OwnerKey {
        inode: file.inode.number,
        owner: request.owner,
    }
}

fn apply(file_system: &FileSystem, file: &OpenFile, request: LockRequest, wait: bool) -> Result<(), Errno> {
    if request.is_flock {
        return apply_flock(file, request.lock_type, wait);
    }
    let key = key(file, request);
    let owner = if request.lock_type == LockType::Unlock {
        match file_system.locks.existing(key) {
            Some(owner) => owner,
            None => return Ok(()),
        }
    } else {
        file_system
            .locks
            .owner(key, request.handle, || open_for_locks(file_system, file))?
    };
    let lock = Lock {
        range: request.range,
        lock_type: request.lock_type,
    };
    if wait {
        owner.file().wait(lock)
    } else {
        owner.file().set(lock)
    }
}

/// Opens the file for locks of both types, if possible: an exclusive one needs a descriptor for writing.
fn open_for_locks(file_system: &FileSystem, file: &OpenFile) -> Result<OwnedFd, Errno> {
    let inode = &file.inode;
    if inode.share.is_read_only() {
        return inode.open(file_system.paths, OFlags::RDONLY);
    }
    match inode.open(file_system.paths, OFlags::RDWR) {
        Err(Errno::TXTBSY | Errno::ACCESS | Errno::PERM | Errno::ROFS) => inode.open(file_system.paths, OFlags::RDONLY),
        result => result,
    }
}

/// Locks by flock(2) belong to the open file.
fn apply_flock(file: &OpenFile, lock_type: LockType, wait: bool) -> Result<(), Errno> {
    let operation = match (lock_type, wait) {
        (LockType::Shared, false) => FlockOperation::NonBlockingLockShared,
        (LockType::Shared, true) => FlockOperation::LockShared,
        (LockType::Exclusive, false) => FlockOperation::NonBlockingLockExclusive,
        (LockType::Exclusive, true) => FlockOperation::LockExclusive,
        (LockType::Unlock, _) => FlockOperation::Unlock,
    };
    flock(&file.descriptor, operation)
}
