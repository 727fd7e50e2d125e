//! GETATTR, SETATTR and STATFS.

use std::time::Duration;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid, chmodat, chownat, fstatfs,
    ftruncate, utimensat,
};
use rustix::io::Errno;

use crate::credentials::Credentials;
use crate::file_status;
use crate::file_system::{FileSystem, Node};
use crate::inode::Inode;
use crate::inodes::ROOT;
use crate::protocol::attributes::{Attributes, FileSystemStatus, write_attributes, write_file_system_status};
use crate::protocol::name::MAX_NAME_BYTES;
use crate::protocol::reply::Reply;
use crate::protocol::set_attributes::{SetAttributes, SetTime};

const PAGE_BYTES: u32 = 4096;

/// How long the guest may use the attributes of the root directory, which change when shares are added.
const ROOT_VALID_FOR: Duration = Duration::from_secs(1);

pub fn get(file_system: &FileSystem, node: u64, reply: &mut Reply) -> Result<(), Errno> {
    match file_system.node(node)? {
        Node::Root => {
            let shares = u32::try_from(file_system.shares.all().len()).unwrap_or(0);
            let attributes = Attributes {
                inode: ROOT,
                mode: libc::S_IFDIR | 0o755,
                links: 2 + shares,
                block_bytes: PAGE_BYTES,
                ..Attributes::default()
            };
            write_attributes(reply, &attributes, ROOT_VALID_FOR);
            Ok(())
        }
        Node::Inode(inode) => write_current(file_system, &inode, reply),
    }
}

fn write_current(file_system: &FileSystem, inode: &Inode, reply: &mut Reply) -> Result<(), Errno> {
    let status = file_status::of(inode)?;
    write_attributes(reply, &file_system.attributes(&status)?, inode.share.valid_for());
    Ok(())
}

pub fn set(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    node: u64,
    request: SetAttributes,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let inode = file_system.writable_inode(node)?;
    // A change of the owner clears set-user-ID bits, so the mode comes after it.
    if request.uid.is_some() || request.gid.is_some() {
        let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
        let uid = request.uid.map(id).transpose()?.map(Uid::from_raw);
        let gid = request.gid.map(id).transpose()?.map(Gid::from_raw);
        chownat(&*inode, c"", uid, gid, flags)?;
    }
    if let Some(mode) = request.mode {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        chmodat(CWD, file_system.paths.of(&*inode), mode, AtFlags::empty())?;
    }
    if let Some(size) = request.size {
        let resize = || set_size(file_system, &inode, request.handle, size);
        if request.drop_privileges {
            credentials.without_set_id(resize)?;
        } else {
            resize()?;
        }
    }
    if request.accessed != SetTime::Keep || request.modified != SetTime::Keep {
        let times = Timestamps {
            last_access: timespec(request.accessed),
            last_modification: timespec(request.modified),
        };
        utimensat(&*inode, c"", &times, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
    }
    write_current(file_system, &inode, reply)
}

/// The largest number means that the owner does not change (chown(2)), which the guest says otherwise.
fn id(id: u32) -> Result<u32, Errno> {
    if id == u32::MAX { Err(Errno::INVAL) } else { Ok(id) }
}

fn set_size(file_system: &FileSystem, inode: &Inode, handle: Option<u64>, size: u64) -> Result<(), Errno> {
    if i64::try_from(size).is_err() {
        return Err(Errno::FBIG);
    }
    let open = handle.map(|handle| file_system.handles.file(handle, inode.number));
    match open.transpose()? {
        Some(file) if file.is_writable => ftruncate(&file.descriptor, size),
        _ if inode.is_directory() => Err(Errno::ISDIR),
        _ => ftruncate(inode.open(file_system.paths, OFlags::WRONLY)?, size),
    }
}

fn timespec(time: SetTime) -> Timespec {
    let (tv_sec, tv_nsec) = match time {
        SetTime::Keep => (0, UTIME_OMIT),
        SetTime::Now => (0, UTIME_NOW),
        SetTime::To { seconds, nanoseconds } => (seconds, nanoseconds.into()),
    };
    Timespec { tv_sec, tv_nsec }
}

pub fn file_system_status(file_system: &FileSystem, node: u64, reply: &mut Reply) -> Result<(), Errno> {
    let status = match file_system.node(node)? {
        Node::Root => FileSystemStatus {
            block_bytes: PAGE_BYTES,
            fragment_bytes: PAGE_BYTES,
            name_bytes: MAX_NAME_BYTES as u32,
            ..FileSystemStatus::default()
        },
        Node::Inode(inode) => {
            let status = fstatfs(&*inode)?;
            let number = |value| u32::try_from(value).unwrap_or(0);
            FileSystemStatus {
                blocks: status.f_blocks,
                free_blocks: status.f_bfree,
                available_blocks: status.f_bavail,
                files: status.f_files,
                free_files: status.f_ffree,
                block_bytes: number(status.f_bsize),
                name_bytes: number(status.f_namelen),
                fragment_bytes: number(status.f_frsize),
            }
        }
    };
    write_file_system_status(reply, &status);
    Ok(())
}
