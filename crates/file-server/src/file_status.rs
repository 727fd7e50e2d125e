//! The status of open files, as the guest is told.

use std::os::fd::AsFd;
use std::time::{Duration, SystemTime};

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

/// A mount, and the device that a file on it is on: a file system with several devices, such as btrfs with its
/// subvolumes, numbers the inodes of each separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MountedDevice {
    pub mount: u64,
    pub device: (u32, u32),
}

impl MountedDevice {
    pub fn of(status: &Statx) -> Self {
        Self {
            mount: status.stx_mnt_id,
            device: (status.stx_dev_major, status.stx_dev_minor),
        }
    }
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

/// Two changes within the resolution of time stamps (a tick of the kernel, at most 10 ms) may look like one. This also
/// leaves room for the clock of a file server.
const RESOLUTION: Duration = Duration::from_secs(1);

impl ContentVersion {
    pub fn of(status: &Statx) -> Self {
        Self {
            size: status.stx_size,
            modified: timestamp(status.stx_mtime),
            changed: timestamp(status.stx_ctime),
        }
    }

    /// Whether every change after `now` will have another time stamp.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let Timestamp { seconds, nanoseconds } = self.changed;
        let since_1970 = u64::try_from(seconds).map(|seconds| Duration::new(seconds, nanoseconds));
        // Changed before 1970, according to a clock that is not set.
        let Ok(since_1970) = since_1970 else { return false };
        let changed = SystemTime::UNIX_EPOCH.checked_add(since_1970);
        let age = changed.and_then(|changed| now.duration_since(changed).ok());
        age.is_some_and(|age| age > RESOLUTION)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_settled_when_a_change_would_have_another_time() {
        let version = ContentVersion {
            size: 0,
            modified: Timestamp::default(),
            changed: Timestamp {
                seconds: 1000,
                nanoseconds: 5,
            },
        };
        let at = |milliseconds| SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        for (now, expected) in [(0, false), (1_000_000, false), (1_001_000, false), (1_001_001, true)] {
            assert_eq!(version.is_settled(at(now)), expected, "{now}");
        }
        let before_1970 = ContentVersion {
            changed: Timestamp {
                seconds: -1,
                nanoseconds: 0,
            },
            ..version
        };
        assert!(!before_1970.is_settled(at(5000)));
    }
}
