//! The status of open files, as the guest is told.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, Statx, StatxFlags, StatxTimestamp, statx};
use rustix::io::Errno;

use crate::protocol::attributes::{Attributes, Timestamp};

/// The status of what a descriptor refers to, which may be an `O_PATH` descriptor.
pub fn of(descriptor: impl AsFd) -> Result<Statx, Errno> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW;
    statx(descriptor, c"", flags, StatxFlags::BASIC_STATS | StatxFlags::MNT_ID)
}

pub fn file_type(status: &Statx) -> FileType {
    FileType::from_raw_mode(status.stx_mode.into())
}

fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp {
        seconds: time.tv_sec,
        nanoseconds: time.tv_nsec,
    }
}

/// The attributes that the guest is told.
pub fn attributes(status: &Statx) -> Attributes {
    Attributes {
        inode: status.stx_ino,
        size: status.stx_size,
        blocks: status.stx_blocks,
        accessed: timestamp(status.stx_atime),
        modified: timestamp(status.stx_mtime),
        changed: timestamp(status.stx_ctime),
        mode: status.stx_mode.into(),
        links: status.stx_nlink,
        uid: status.stx_uid,
        gid: status.stx_gid,
        block_bytes: status.stx_blksize,
        is_submount: false,
    }
}

/// What changes whenever the content of a file does, as far as its time stamps tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentVersion {
    size: u64,
    modified: Timestamp,
    changed: Timestamp,
}

impl ContentVersion {
    pub fn of(status: &Statx) -> Self {
        Self {
            size: status.stx_size,
            modified: timestamp(status.stx_mtime),
            changed: timestamp(status.stx_ctime),
        }
    }
}
