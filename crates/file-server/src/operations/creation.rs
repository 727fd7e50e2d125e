//! CREATE, TMPFILE, MKNOD, MKDIR, SYMLINK and LINK. What they create belongs to the caller in the guest, except for
//! links, which create no inode.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, linkat, mkdirat, mknodat, openat, openat2, symlinkat,
};
use rustix::io::Errno;

use super::entries;
use super::opening::{self, host_flags};
use crate::credentials::{Caller, Credentials};
use crate::file_system::FileSystem;
use crate::inode::{FoundFile, Inode};
use crate::protocol::attributes::write_entry;
use crate::protocol::bodies::{Creation, Open};
use crate::protocol::name::Name;
use crate::protocol::reply::Reply;

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}

/// Creates and opens a regular file, or opens the one that exists.
pub fn create(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    caller: Caller,
    (parent, name): (u64, Name<'_>),
    request: Creation,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    let flags = host_flags(request.flags)? | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let created = credentials.as_caller(caller, || {
        openat2(&*parent, name.as_c_str(), flags, permissions(request.mode), resolve)
    });
    match created {
        Ok(created) => tell_opened(file_system, &parent, created, request.flags, reply),
        // Never opened by name: it may be a FIFO, which would block, or a device.
        Err(Errno::EXIST) if !OFlags::from_bits_retain(request.flags).contains(OFlags::EXCL) => {
            let found = parent.find(name)?;
            if found.file_type != FileType::RegularFile {
                // The guest's kernel looks the name up again.
                return Err(Errno::STALE);
            }
            let entry = entries::of_file(file_system, found, &parent.key)?;
            write_entry(reply, &entry);
            let open = Open {
                flags: request.flags,
                drop_privileges: request.drop_privileges,
            };
            let opened = opening::open(file_system, credentials, entry.node, open, reply);
            opened.inspect_err(|_| file_system.inodes.forget(entry.node, 1))
        }
        Err(error) => Err(error),
    }
}

/// Creates and opens a file without a name.
pub fn temporary_file(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    caller: Caller,
    parent: u64,
    request: Creation,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    // With O_EXCL it never gets a name.
    let exclusive = OFlags::from_bits_retain(request.flags) & OFlags::EXCL;
    let flags = (host_flags(request.flags)? - OFlags::TRUNC) | OFlags::TMPFILE | OFlags::CLOEXEC | exclusive;
    let created = credentials.as_caller(caller, || openat(&*parent, c".", flags, permissions(request.mode)))?;
    tell_opened(file_system, &parent, created, request.flags, reply)
}

/// Tells the guest about a file that was created and is open.
fn tell_opened(
    file_system: &FileSystem,
    parent: &Inode,
    created: OwnedFd,
    flags: u32,
    reply: &mut Reply,
) -> Result<(), Errno> {
    // From the descriptor, because the name may refer to another file by now.
    let path = file_system.paths.of(&created);
    let descriptor = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let found = FoundFile::of(descriptor, parent.share.clone())?;
    let entry = entries::of_file(file_system, found, &parent.key)?;
    write_entry(reply, &entry);
    let inode = file_system.inodes.get(entry.node)?;
    let opened = opening::add_file(file_system, inode, created, flags, false, reply);
    opened.inspect_err(|_| file_system.inodes.forget(entry.node, 1))
}

/// Tells the guest about the file that has a name now.
fn tell(file_system: &FileSystem, parent: &Inode, name: Name<'_>, reply: &mut Reply) -> Result<(), Errno> {
    let entry = entries::of_file(file_system, parent.find(name)?, &parent.key)?;
    write_entry(reply, &entry);
    Ok(())
}

/// Creates a regular file, a FIFO or a socket, but no device.
pub fn make_node(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    caller: Caller,
    parent: u64,
    mode: u32,
    name: Name<'_>,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    let file_type = match mode & libc::S_IFMT {
        libc::S_IFREG | 0 => FileType::RegularFile,
        libc::S_IFIFO => FileType::Fifo,
        libc::S_IFSOCK => FileType::Socket,
        _ => return Err(Errno::PERM),
    };
    credentials.as_caller(caller, || {
        mknodat(&*parent, name.as_c_str(), file_type, permissions(mode), 0)
    })?;
    tell(file_system, &parent, name, reply)
}

pub fn make_directory(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    caller: Caller,
    parent: u64,
    mode: u32,
    name: Name<'_>,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    credentials.as_caller(caller, || mkdirat(&*parent, name.as_c_str(), permissions(mode)))?;
    tell(file_system, &parent, name, reply)
}

/// The target is any text: only the guest's kernel follows it.
pub fn symlink(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    caller: Caller,
    parent: u64,
    name: Name<'_>,
    target: &CStr,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    credentials.as_caller(caller, || symlinkat(target, &*parent, name.as_c_str()))?;
    tell(file_system, &parent, name, reply)
}

/// Gives an inode another name. A symbolic link is linked itself.
pub fn link(
    file_system: &FileSystem,
    existing: u64,
    parent: u64,
    name: Name<'_>,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let inode = file_system.writable_inode(existing)?;
    let parent = file_system.writable_inode(parent)?;
    parent.check_directory()?;
    let path = file_system.paths.of(&*inode);
    linkat(CWD, path, &*parent, name.as_c_str(), AtFlags::SYMLINK_FOLLOW)?;
    tell(file_system, &parent, name, reply)
}
