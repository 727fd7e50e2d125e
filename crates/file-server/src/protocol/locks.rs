//! Locks of files (`struct fuse_lk_in`, `struct fuse_lk_out`).

use super::fields::{Fields, Malformed};
use super::reply::Reply;

/// The end of a lock that reaches to the end of the file, wherever that is (`OFFSET_MAX`).
const END_OF_FILE: u64 = i64::MAX.cast_unsigned();

/// `FUSE_LK_FLOCK`: the lock is one of flock(2).
const FLOCK: u32 = 1;

/// What a lock allows other owners.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockType {
    Shared,
    Exclusive,
    Unlock,
}

/// Bytes of a file: `first` up to and including `last`, or up to the end of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    first: u64,
    last: u64,
}

impl LockRange {
    pub const WHOLE_FILE: Self = Self {
        first: 0,
        last: END_OF_FILE,
    };

    /// Checks a range as the guest's kernel checks those of replies (`convert_fuse_file_lock`).
    fn new(first: u64, last: u64) -> Result<Self, Malformed> {
        if last > END_OF_FILE || first > last {
            return Err(Malformed);
        }
        Ok(Self { first, last })
    }

    pub fn first(self) -> u64 {
        self.first
    }

    /// The last byte, which is part of it.
    pub fn last(self) -> u64 {
        self.last
    }

    /// Start and length as in `struct flock`, where length 0 means up to the end of the file.
    pub fn start_and_length(self) -> (i64, i64) {
        let start = self.first.cast_signed();
        let length = if self.last == END_OF_FILE {
            0
        } else {
            (self.last - self.first + 1).cast_signed()
        };
        (start, length)
    }

    /// The range of a `struct flock` that the kernel returned.
    pub fn of_start_and_length(start: i64, length: i64) -> Self {
        let first = u64::try_from(start).unwrap_or(0);
        let last = match u64::try_from(length) {
            Ok(length @ 1..) => first.saturating_add(length - 1).min(END_OF_FILE),
            _ => END_OF_FILE,
        };
        Self { first, last }
    }
}

/// The body of GETLK, SETLK and SETLKW.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRequest {
    pub handle: u64,
    /// The owner in the guest: a table of descriptors, or an open file for flock(2).
    pub owner: u64,
    pub range: LockRange,
    pub lock_type: LockType,
    pub is_flock: bool,
}

impl LockRequest {
    pub fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let handle = fields.u64()?;
        let owner = fields.u64()?;
        let range = LockRange::new(fields.u64()?, fields.u64()?)?;
        let lock_type = match i32::try_from(fields.u32()?) {
            Ok(libc::F_RDLCK) => LockType::Shared,
            Ok(libc::F_WRLCK) => LockType::Exclusive,
            Ok(libc::F_UNLCK) => LockType::Unlock,
            _ => return Err(Malformed),
        };
        let _pid = fields.u32()?;
        let is_flock = fields.u32()? & FLOCK != 0;
        fields.skip(4)?;
        Ok(Self {
            handle,
            owner,
            range,
            lock_type,
            is_flock,
        })
    }
}

/// Writes `struct fuse_lk_out`. The owner's process is not named: it may be one of another VM.
pub fn write_lock(reply: &mut Reply, range: LockRange, lock_type: LockType) {
    let number = match lock_type {
        LockType::Shared => libc::F_RDLCK,
        LockType::Exclusive => libc::F_WRLCK,
        LockType::Unlock => libc::F_UNLCK,
    };
    reply.u64(range.first);
    reply.u64(range.last);
    reply.u32(number.cast_unsigned());
    reply.u32(0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_range_survives_the_way_through_the_host_s_structure(first in offset(), last in offset()) {
            let range = LockRange::new(first.min(last), first.max(last)).unwrap();
            let (start, length) = range.start_and_length();
            prop_assert!(start >= 0 && length >= 0 && start.checked_add(length).is_some());
            prop_assert_eq!(LockRange::of_start_and_length(start, length), range);
        }
    }

    fn offset() -> impl Strategy<Value = u64> {
        prop_oneof![0..3u64, END_OF_FILE - 2..=END_OF_FILE, 0..=END_OF_FILE]
    }

    #[test]
    fn a_range_that_no_file_has_is_malformed() {
        for (first, last) in [(1, 0), (0, END_OF_FILE + 1), (u64::MAX, u64::MAX)] {
            assert_eq!(LockRange::new(first, last), Err(Malformed));
        }
    }
}
