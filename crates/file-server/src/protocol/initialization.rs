//! INIT: what the guest's kernel offers and what this server uses (`struct fuse_init_in`, `struct fuse_init_out`).

use super::MAX_DATA_BYTES;
use super::fields::{Fields, Malformed};
use super::reply::Reply;

/// The version of the protocol that this server uses.
pub const MAJOR: u32 = 7;
/// See [`MAJOR`].
pub const MINOR: u32 = 41;

// The flags in use; see `fs/fuse/inode.c`, `process_init_reply`, for what they change in the guest.
const ASYNC_READ: u64 = 1 << 0;
const POSIX_LOCKS: u64 = 1 << 1;
const ATOMIC_O_TRUNC: u64 = 1 << 3;
const BIG_WRITES: u64 = 1 << 5;
const DONT_MASK: u64 = 1 << 6;
const FLOCK_LOCKS: u64 = 1 << 10;
const AUTO_INVAL_DATA: u64 = 1 << 12;
const DO_READDIRPLUS: u64 = 1 << 13;
const READDIRPLUS_AUTO: u64 = 1 << 14;
const ASYNC_DIO: u64 = 1 << 15;
const PARALLEL_DIROPS: u64 = 1 << 18;
const POSIX_ACL: u64 = 1 << 20;
const MAX_PAGES: u64 = 1 << 22;
const CACHE_SYMLINKS: u64 = 1 << 23;
const SUBMOUNTS: u64 = 1 << 27;
const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
const SETXATTR_EXT: u64 = 1 << 29;
const INIT_EXT: u64 = 1 << 30;
const ALLOW_IDMAP: u64 = 1 << 40;

/// Every guest offers these: the meaning of requests depends on them.
const REQUIRED: u64 =
    ATOMIC_O_TRUNC | BIG_WRITES | DONT_MASK | POSIX_ACL | MAX_PAGES | HANDLE_KILLPRIV_V2 | SETXATTR_EXT | INIT_EXT;

/// Used if the guest offers them. There is no `WRITEBACK_CACHE`: with it, the guest alone would decide about sizes and
/// times of files that other Pods change as well.
const OPTIONAL: u64 = ASYNC_READ
    | POSIX_LOCKS
    | FLOCK_LOCKS
    | AUTO_INVAL_DATA
    | DO_READDIRPLUS
    | READDIRPLUS_AUTO
    | ASYNC_DIO
    | PARALLEL_DIROPS
    | CACHE_SYMLINKS;

/// Requests that the guest sends without a process waiting for them, such as readahead. The guest's queue bounds all
/// requests further.
const MAX_BACKGROUND: u16 = 64;

const PAGE_BYTES: usize = 4096;

/// The body of INIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Initialization {
    major: u32,
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

impl Initialization {
    pub fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let major = fields.u32()?;
        let minor = fields.u32()?;
        let max_readahead = fields.u32()?;
        let low = fields.u32()?;
        let high = fields.u32()?;
        // Later versions may use the rest.
        fields.rest();
        Ok(Self {
            major,
            minor,
            max_readahead,
            flags: u64::from(high) << 32 | u64::from(low),
        })
    }

    /// What the server answers; `None` if it does not support the guest's kernel. With `maps_users`, the guest can map
    /// the users of its mounts (`MOUNT_ATTR_IDMAP`). Linux 6.12 cannot do this for submounts.
    #[must_use]
    pub fn negotiate(&self, maps_users: bool) -> Option<Agreement> {
        if self.major != MAJOR || self.flags & REQUIRED != REQUIRED {
            return None;
        }
        Some(Agreement {
            minor: self.minor.min(MINOR),
            max_readahead: self.max_readahead,
            flags: self.flags & (REQUIRED | OPTIONAL | if maps_users { ALLOW_IDMAP } else { SUBMOUNTS }),
        })
    }
}

/// What server and guest agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    minor: u32,
    max_readahead: u32,
    flags: u64,
}

impl Agreement {
    /// Writes `struct fuse_init_out`.
    pub fn write(&self, reply: &mut Reply) {
        let limit = u32::try_from(MAX_DATA_BYTES).unwrap_or(u32::MAX);
        let pages = u16::try_from(MAX_DATA_BYTES / PAGE_BYTES).unwrap_or(u16::MAX);
        reply.u32(MAJOR);
        reply.u32(self.minor);
        reply.u32(self.max_readahead.min(limit));
        reply.u32((self.flags & u64::from(u32::MAX)) as u32);
        reply.u16(MAX_BACKGROUND);
        reply.u16(MAX_BACKGROUND / 4 * 3);
        reply.u32(limit);
        // Times have nanoseconds.
        reply.u32(1);
        reply.u16(pages);
        // No mappings (DAX).
        reply.u16(0);
        reply.u32((self.flags >> 32) as u32);
        // No file systems stacked on this one, and reserved fields.
        reply.zeros(28);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(major: u32, flags: u64) -> Initialization {
        Initialization {
            major,
            minor: 45,
            max_readahead: u32::MAX,
            flags,
        }
    }

    #[test]
    fn only_offered_flags_are_used_and_unknown_ones_are_not() {
        let offered = offer(7, REQUIRED | SUBMOUNTS | 1 << 16 | ALLOW_IDMAP | 1 << 45);
        assert_eq!(offered.negotiate(true).unwrap().flags, REQUIRED | ALLOW_IDMAP);
        let agreement = offered.negotiate(false).unwrap();
        assert_eq!(agreement.flags, REQUIRED | SUBMOUNTS);
        assert_eq!(agreement.minor, MINOR);
        let mut reply = Reply::new(Vec::new());
        agreement.write(&mut reply);
        assert_eq!(reply.body_bytes(), 64);
    }

    #[test]
    fn a_kernel_without_the_required_flags_is_refused() {
        assert_eq!(offer(6, u64::MAX).negotiate(false), None);
        assert_eq!(offer(8, u64::MAX).negotiate(false), None);
        assert_eq!(offer(7, !HANDLE_KILLPRIV_V2).negotiate(true), None);
    }
}
