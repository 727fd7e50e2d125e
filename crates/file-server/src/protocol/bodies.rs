//! Bodies of requests with several fields.

use super::fields::{Fields, Malformed};

// `open_flags`, `write_flags`, `fsync_flags` and `release_flags` of the kernel.
const OPEN_KILL_SUIDGID: u32 = 1;
const WRITE_CACHE: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
const FSYNC_DATA: u32 = 1;
const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// A length within the message.
pub(super) fn length(size: u32) -> Result<usize, Malformed> {
    usize::try_from(size).map_err(|_| Malformed)
}

/// The body of OPEN (`struct fuse_open_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// `O_*`.
    pub flags: u32,
    /// Whether truncating the file clears set-user-ID, set-group-ID and file capabilities.
    pub drop_privileges: bool,
}

impl Open {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        Ok(Self {
            flags: fields.u32()?,
            drop_privileges: fields.u32()? & OPEN_KILL_SUIDGID != 0,
        })
    }
}

/// How a file is created (CREATE, TMPFILE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Creation {
    /// `O_*`.
    pub flags: u32,
    pub mode: u32,
    pub umask: u32,
    pub drop_privileges: bool,
}

impl Creation {
    /// Parses `struct fuse_create_in`.
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let (flags, mode, umask, open_flags) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
        Ok(Self {
            flags,
            mode,
            umask,
            drop_privileges: open_flags & OPEN_KILL_SUIDGID != 0,
        })
    }
}

/// The part of a file or directory that READ, READDIR and READDIRPLUS ask for (`struct fuse_read_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub handle: u64,
    pub offset: u64,
    pub size: u32,
}

impl Read {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let read = Self {
            handle: fields.u64()?,
            offset: fields.u64()?,
            size: fields.u32()?,
        };
        // read_flags, lock_owner, flags, padding
        fields.skip(20)?;
        Ok(read)
    }
}

/// The body of WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write<'a> {
    pub handle: u64,
    pub offset: u64,
    /// `O_*` of the open file at this moment.
    pub flags: u32,
    /// The data comes from the page cache of a mapping, and the handle is any that can be written.
    pub from_mapping: bool,
    pub drop_privileges: bool,
    pub data: &'a [u8],
}

impl<'a> Write<'a> {
    /// Parses `struct fuse_write_in` and the data.
    pub(super) fn parse(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
        let (write_flags, _lock_owner, flags, _padding) = (fields.u32()?, fields.u64()?, fields.u32()?, fields.u32()?);
        Ok(Self {
            handle,
            offset,
            flags,
            from_mapping: write_flags & WRITE_CACHE != 0,
            drop_privileges: write_flags & WRITE_KILL_SUIDGID != 0,
            data: fields.bytes(length(size)?)?,
        })
    }
}

/// The body of RELEASE and RELEASEDIR (`struct fuse_release_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    pub handle: u64,
    /// Whether the open file may have a lock by flock(2).
    pub unlock_flock: bool,
}

impl Release {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let (handle, _flags, release_flags, _lock_owner) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u64()?);
        Ok(Self {
            handle,
            unlock_flock: release_flags & RELEASE_FLOCK_UNLOCK != 0,
        })
    }
}

/// The body of FSYNC and FSYNCDIR (`struct fuse_fsync_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fsync {
    pub handle: u64,
    pub data_only: bool,
}

impl Fsync {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let (handle, flags, _padding) = (fields.u64()?, fields.u32()?, fields.u32()?);
        Ok(Self {
            handle,
            data_only: flags & FSYNC_DATA != 0,
        })
    }
}

/// The body of FALLOCATE (`struct fuse_fallocate_in`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allocate {
    pub handle: u64,
    pub offset: u64,
    pub length: u64,
    /// `FALLOC_FL_*`.
    pub mode: u32,
}

impl Allocate {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (mode, _padding) = (fields.u32()?, fields.u32()?);
        Ok(Self {
            handle,
            offset,
            length,
            mode,
        })
    }
}

/// The body of COPY_FILE_RANGE, whose source is the inode of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyFileRange {
    pub from_handle: u64,
    pub from_offset: u64,
    pub to_node: u64,
    pub to_handle: u64,
    pub to_offset: u64,
    pub length: u64,
}

impl CopyFileRange {
    pub(super) fn parse(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let copy = Self {
            from_handle: fields.u64()?,
            from_offset: fields.u64()?,
            to_node: fields.u64()?,
            to_handle: fields.u64()?,
            to_offset: fields.u64()?,
            length: fields.u64()?,
        };
        let _flags = fields.u64()?;
        Ok(copy)
    }
}

/// The inodes of BATCH_FORGET, each with the number of lookups that the guest forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgets<'a> {
    /// As many pairs of u64 as the request says.
    pairs: &'a [u8],
}

impl<'a> Forgets<'a> {
    pub(super) fn parse(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
        let (count, _padding) = (fields.u32()?, fields.u32()?);
        let bytes = length(count)?.checked_mul(16).ok_or(Malformed)?;
        Ok(Self {
            pairs: fields.bytes(bytes)?,
        })
    }

    /// Inodes and counts.
    pub fn iter(self) -> impl Iterator<Item = (u64, u64)> + use<'a> {
        let (pairs, _) = self.pairs.as_chunks::<16>();
        pairs.iter().filter_map(|pair| {
            let mut fields = Fields::new(pair);
            Some((fields.u64().ok()?, fields.u64().ok()?))
        })
    }
}
