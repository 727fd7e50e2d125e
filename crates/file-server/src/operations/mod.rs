//! What the server does for each request: one file for each group of operations. Here a request is parsed and given to
//! its operation.

mod attributes;
mod creation;
mod data;
mod directories;
mod entries;
mod extended_attributes;
mod locking;
mod lookup;
mod opening;
pub mod outcome;
mod removal;
mod session;

use std::sync::Arc;

use rustix::io::Errno;

use crate::credentials::{Caller, Credentials};
use crate::file_system::FileSystem;
use crate::protocol::header::RequestHeader;
use crate::protocol::opcode;
use crate::protocol::reply::Reply;
use crate::protocol::request::{Operation, RequestError};
use crate::replies::Replies;
use outcome::{Outcome, without_special_meaning};

/// Does the part of a request that must have happened before the next one is served.
///
/// The guest's kernel does not wait for the reply to RELEASE: close(2) returns before. A process that takes a lock after
/// another one has closed the file must get it.
pub fn begin(file_system: &FileSystem, header: &RequestHeader, body: &[u8]) {
    if header.opcode != opcode::RELEASE {
        return;
    }
    let body = body.get(..header.body_bytes()).unwrap_or_default();
    if let Ok(Operation::Release(request)) = Operation::parse(header, body) {
        // The request itself reports errors.
        let _ = opening::end_locks(file_system, request);
    }
}

/// Serves one request. `body` is everything after the header. `replies` is for a reply that another thread sends later.
pub fn serve(
    file_system: &Arc<FileSystem>,
    credentials: &mut Credentials,
    replies: &Replies,
    header: &RequestHeader,
    body: &[u8],
    reply: &mut Reply,
) -> Outcome {
    let body = body.get(..header.body_bytes()).unwrap_or_default();
    let operation = match Operation::parse(header, body) {
        Ok(operation) => operation,
        // An unknown operation cannot be one without a reply.
        Err(RequestError::Unsupported) => return Outcome::Done(Err(Errno::NOSYS)),
        Err(_) if opcode::is_silent(header.opcode) => return Outcome::Silent,
        Err(RequestError::Malformed) => return Outcome::Done(Err(Errno::INVAL)),
        Err(RequestError::NameTooLong) => return Outcome::Done(Err(Errno::NAMETOOLONG)),
    };
    match operation {
        Operation::Forget { count } => {
            file_system.inodes.forget(header.node, count);
            Outcome::Silent
        }
        Operation::BatchForget(forgets) => {
            for (node, count) in forgets.iter() {
                file_system.inodes.forget(node, count);
            }
            Outcome::Silent
        }
        Operation::WaitForLock(request) if file_system.is_initialized() => {
            locking::wait(file_system, replies, header, request)
        }
        operation => {
            let result = perform(file_system, credentials, header, operation, reply);
            Outcome::Done(result.map_err(without_special_meaning))
        }
    }
}

fn perform(
    file_system: &Arc<FileSystem>,
    credentials: &mut Credentials,
    header: &RequestHeader,
    operation: Operation<'_>,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let node = header.node;
    let caller = |umask| Caller {
        uid: header.uid,
        gid: header.gid,
        umask,
    };
    if let Operation::Initialize(request) = operation {
        return session::initialize(file_system, request, reply);
    }
    if !file_system.is_initialized() {
        return Err(Errno::IO);
    }
    match operation {
        Operation::Lookup { name } => lookup::lookup(file_system, node, name, reply),
        Operation::GetAttributes => attributes::get(file_system, node, reply),
        Operation::SetAttributes(request) => attributes::set(file_system, credentials, node, request, reply),
        Operation::ReadLink => lookup::read_link(file_system, node, reply),
        Operation::FileSystemStatus => attributes::file_system_status(file_system, node, reply),

        Operation::Create { creation, name } => {
            let caller = caller(creation.umask);
            creation::create(file_system, credentials, caller, (node, name), creation, reply)
        }
        Operation::TemporaryFile(creation) => {
            let caller = caller(creation.umask);
            creation::temporary_file(file_system, credentials, caller, node, creation, reply)
        }
        Operation::MakeNode { mode, umask, name } => {
            creation::make_node(file_system, credentials, caller(umask), node, mode, name, reply)
        }
        Operation::MakeDirectory { mode, umask, name } => {
            creation::make_directory(file_system, credentials, caller(umask), node, mode, name, reply)
        }
        Operation::Symlink { name, target } => {
            creation::symlink(file_system, credentials, caller(0), node, name, target, reply)
        }
        Operation::Link { node: existing, name } => creation::link(file_system, existing, node, name, reply),

        Operation::Unlink { name } => removal::unlink(file_system, node, name),
        Operation::RemoveDirectory { name } => removal::remove_directory(file_system, node, name),
        Operation::Rename {
            flags,
            name,
            new_parent,
            new_name,
        } => removal::rename(file_system, (node, name), (new_parent, new_name), flags),

        Operation::Open(request) => opening::open(file_system, credentials, node, request, reply),
        Operation::Flush { handle, lock_owner } => opening::flush(file_system, node, handle, lock_owner),
        Operation::Release(request) => opening::release(file_system, request),
        Operation::OpenDirectory => opening::open_directory(file_system, node, reply),
        Operation::ReleaseDirectory { handle } => opening::release_directory(file_system, handle),

        Operation::Read(request) => data::read(file_system, node, request, reply),
        Operation::Write(request) => data::write(file_system, credentials, node, request, reply),
        Operation::Seek { handle, offset, whence } => data::seek(file_system, node, handle, offset, whence, reply),
        Operation::Allocate(request) => data::allocate(file_system, credentials, node, request),
        Operation::CopyFileRange(request) => data::copy(file_system, credentials, node, request, reply),
        Operation::Sync(request) => data::sync(file_system, node, request),

        Operation::ReadDirectory(request) => directories::read(file_system, node, request, reply),
        Operation::ReadDirectoryPlus(request) => directories::read_plus(file_system, node, request, reply),
        Operation::SyncDirectory(request) => directories::sync(file_system, node, request),

        Operation::SetExtendedAttribute {
            flags,
            drop_set_group_id,
            name,
            value,
        } => extended_attributes::set(file_system, node, name, value, flags, drop_set_group_id),
        Operation::GetExtendedAttribute { size, name } => {
            extended_attributes::get(file_system, node, name, size, reply)
        }
        Operation::ListExtendedAttributes { size } => extended_attributes::list(file_system, node, size, reply),
        Operation::RemoveExtendedAttribute { name } => extended_attributes::remove(file_system, node, name),

        Operation::GetLock(request) => locking::get(file_system, node, request, reply),
        Operation::SetLock(request) => locking::set(file_system, node, request),

        Operation::SyncFileSystem => session::sync(file_system, node),
        Operation::Destroy => {
            file_system.reset();
            Ok(())
        }
        // Handled by the callers.
        Operation::Forget { .. } | Operation::BatchForget(_) | Operation::WaitForLock(_) | Operation::Initialize(_) => {
            Err(Errno::IO)
        }
    }
}
