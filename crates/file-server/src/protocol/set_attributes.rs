//! SETATTR: which attributes change, and to what (`struct fuse_setattr_in`).

use super::fields::{Fields, Malformed};

// The bits of `valid`.
const MODE: u32 = 1 << 0;
const UID: u32 = 1 << 1;
const GID: u32 = 1 << 2;
const SIZE: u32 = 1 << 3;
const ATIME: u32 = 1 << 4;
const MTIME: u32 = 1 << 5;
const HANDLE: u32 = 1 << 6;
const ATIME_NOW: u32 = 1 << 7;
const MTIME_NOW: u32 = 1 << 8;
const KILL_SUIDGID: u32 = 1 << 11;

/// A change of a time stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    Keep,
    Now,
    To { seconds: i64, nanoseconds: u32 },
}

/// The body of SETATTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetAttributes {
    pub handle: Option<u64>,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: SetTime,
    pub modified: SetTime,
    /// Whether a change of the size clears set-user-ID, set-group-ID and file capabilities.
    pub drop_privileges: bool,
}

impl SetAttributes {
    pub fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let valid = fields.u32()?;
        fields.skip(4)?;
        let handle = fields.u64()?;
        let size = fields.u64()?;
        let _lock_owner = fields.u64()?;
        let (accessed, modified, _changed) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (accessed_nanoseconds, modified_nanoseconds, _) = (fields.u32()?, fields.u32()?, fields.u32()?);
        let mode = fields.u32()?;
        fields.skip(4)?;
        let uid = fields.u32()?;
        let gid = fields.u32()?;
        fields.skip(4)?;
        let has = |bit: u32| valid & bit != 0;
        Ok(Self {
            handle: has(HANDLE).then_some(handle),
            mode: has(MODE).then_some(mode),
            uid: has(UID).then_some(uid),
            gid: has(GID).then_some(gid),
            size: has(SIZE).then_some(size),
            accessed: time(has(ATIME), has(ATIME_NOW), accessed, accessed_nanoseconds)?,
            modified: time(has(MTIME), has(MTIME_NOW), modified, modified_nanoseconds)?,
            drop_privileges: has(KILL_SUIDGID),
        })
    }
}

fn time(is_set: bool, is_now: bool, seconds: u64, nanoseconds: u32) -> Result<SetTime, Malformed> {
    if !is_set {
        Ok(SetTime::Keep)
    } else if is_now {
        Ok(SetTime::Now)
    } else if nanoseconds < 1_000_000_000 {
        // Larger numbers have a special meaning for utimensat(2).
        Ok(SetTime::To {
            seconds: seconds.cast_signed(),
            nanoseconds,
        })
    } else {
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_kept_set_to_now_or_to_a_value() {
        assert_eq!(time(false, true, 1, 1), Ok(SetTime::Keep));
        assert_eq!(time(true, true, 1, 1), Ok(SetTime::Now));
        let before_1970 = SetTime::To {
            seconds: -1,
            nanoseconds: 5,
        };
        assert_eq!(time(true, false, u64::MAX, 5), Ok(before_1970));
    }

    #[test]
    fn the_special_values_of_utimensat_are_malformed() {
        for special in [libc::UTIME_NOW, libc::UTIME_OMIT] {
            assert_eq!(time(true, false, 0, u32::try_from(special).unwrap()), Err(Malformed));
        }
    }
}
