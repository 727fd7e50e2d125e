//! Requests: one variant for each operation that the server supports, with the fields that it uses.

use std::ffi::CStr;

use super::fields::{Fields, Malformed};
use super::header::RequestHeader;
use super::initialization::Initialization;
use super::locks::LockRequest;
use super::name::{Name, NameError};
use super::opcode;
use super::set_attributes::SetAttributes;

// `open_flags`, `write_flags`, `fsync_flags`, `setxattr_flags`, `release_flags` of the kernel.
const OPEN_KILL_SUIDGID: u32 = 1;
const WRITE_CACHE: u32 = 1;
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
const FSYNC_DATA: u32 = 1;
const SETXATTR_ACL_KILL_SGID: u32 = 1;
const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// Why a request is refused before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    Malformed,
    NameTooLong,
    /// The server does not have this operation, and the guest's kernel should not request it again.
    Unsupported,
}

impl From<Malformed> for RequestError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

impl From<NameError> for RequestError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::NotAnEntry => Self::Malformed,
            NameError::TooLong => Self::NameTooLong,
        }
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

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    Lookup {
        name: Name<'a>,
    },
    Forget {
        count: u64,
    },
    BatchForget(Forgets<'a>),
    GetAttributes,
    SetAttributes(SetAttributes),
    ReadLink,
    Symlink {
        name: Name<'a>,
        target: &'a CStr,
    },
    MakeNode {
        mode: u32,
        umask: u32,
        name: Name<'a>,
    },
    MakeDirectory {
        mode: u32,
        umask: u32,
        name: Name<'a>,
    },
    Unlink {
        name: Name<'a>,
    },
    RemoveDirectory {
        name: Name<'a>,
    },
    Rename {
        flags: u32,
        name: Name<'a>,
        new_parent: u64,
        new_name: Name<'a>,
    },
    Link {
        node: u64,
        name: Name<'a>,
    },
    Open {
        flags: u32,
        drop_privileges: bool,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write(Write<'a>),
    FileSystemStatus,
    Release {
        handle: u64,
        unlock_flock: bool,
    },
    Sync {
        handle: u64,
        data_only: bool,
    },
    SetExtendedAttribute {
        flags: u32,
        drop_set_group_id: bool,
        name: &'a CStr,
        value: &'a [u8],
    },
    GetExtendedAttribute {
        size: u32,
        name: &'a CStr,
    },
    ListExtendedAttributes {
        size: u32,
    },
    RemoveExtendedAttribute {
        name: &'a CStr,
    },
    Flush {
        handle: u64,
        lock_owner: u64,
    },
    Initialize(Initialization),
    OpenDirectory,
    ReadDirectory {
        handle: u64,
        offset: u64,
        size: u32,
    },
    ReadDirectoryPlus {
        handle: u64,
        offset: u64,
        size: u32,
    },
    ReleaseDirectory {
        handle: u64,
    },
    SyncDirectory {
        handle: u64,
        data_only: bool,
    },
    GetLock(LockRequest),
    SetLock(LockRequest),
    WaitForLock(LockRequest),
    Create {
        creation: Creation,
        name: Name<'a>,
    },
    TemporaryFile(Creation),
    Destroy,
    Allocate {
        handle: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    Seek {
        handle: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyFileRange),
    SyncFileSystem,
}

impl<'a> Operation<'a> {
    /// Parses the body of a request, without its extensions.
    pub fn parse(header: &RequestHeader, body: &'a [u8]) -> Result<Self, RequestError> {
        let mut fields = Fields::new(body);
        let operation = parse(header.opcode, &mut fields)?;
        fields.end()?;
        Ok(operation)
    }
}

fn parse<'a>(opcode: u32, fields: &mut Fields<'a>) -> Result<Operation<'a>, RequestError> {
    Ok(match opcode {
        opcode::LOOKUP => Operation::Lookup { name: name(fields)? },
        opcode::FORGET => Operation::Forget { count: fields.u64()? },
        opcode::BATCH_FORGET => Operation::BatchForget(Forgets::parse(fields)?),
        opcode::GETATTR => {
            // A handle has the attributes of its inode.
            fields.skip(16)?;
            Operation::GetAttributes
        }
        opcode::SETATTR => Operation::SetAttributes(SetAttributes::parse(fields)?),
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::Symlink {
            name: name(fields)?,
            target: fields.text()?,
        },
        opcode::MKNOD => {
            let (mode, _device, umask, _padding) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
            let name = name(fields)?;
            Operation::MakeNode { mode, umask, name }
        }
        opcode::MKDIR => Operation::MakeDirectory {
            mode: fields.u32()?,
            umask: fields.u32()?,
            name: name(fields)?,
        },
        opcode::UNLINK => Operation::Unlink { name: name(fields)? },
        opcode::RMDIR => Operation::RemoveDirectory { name: name(fields)? },
        opcode::RENAME => {
            let new_parent = fields.u64()?;
            rename(new_parent, 0, fields)?
        }
        opcode::RENAME2 => {
            let (new_parent, flags) = (fields.u64()?, fields.u32()?);
            fields.skip(4)?;
            rename(new_parent, flags, fields)?
        }
        opcode::LINK => Operation::Link {
            node: fields.u64()?,
            name: name(fields)?,
        },
        opcode::OPEN => Operation::Open {
            flags: fields.u32()?,
            drop_privileges: fields.u32()? & OPEN_KILL_SUIDGID != 0,
        },
        opcode::READ => {
            let (handle, offset, size) = handle_offset_size(fields)?;
            Operation::Read { handle, offset, size }
        }
        opcode::WRITE => Operation::Write(write(fields)?),
        opcode::STATFS => Operation::FileSystemStatus,
        opcode::RELEASE => {
            let (handle, unlock_flock) = release(fields)?;
            Operation::Release { handle, unlock_flock }
        }
        opcode::FSYNC => {
            let (handle, data_only) = sync(fields)?;
            Operation::Sync { handle, data_only }
        }
        opcode::SETXATTR => {
            let (size, flags, set_flags, _padding) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
            Operation::SetExtendedAttribute {
                flags,
                drop_set_group_id: set_flags & SETXATTR_ACL_KILL_SGID != 0,
                name: fields.text()?,
                value: fields.bytes(length(size)?)?,
            }
        }
        opcode::GETXATTR => {
            let (size, _padding) = (fields.u32()?, fields.u32()?);
            let name = fields.text()?;
            Operation::GetExtendedAttribute { size, name }
        }
        opcode::LISTXATTR => {
            let (size, _padding) = (fields.u32()?, fields.u32()?);
            Operation::ListExtendedAttributes { size }
        }
        opcode::REMOVEXATTR => Operation::RemoveExtendedAttribute { name: fields.text()? },
        opcode::FLUSH => {
            let handle = fields.u64()?;
            fields.skip(8)?;
            let lock_owner = fields.u64()?;
            Operation::Flush { handle, lock_owner }
        }
        opcode::INIT => Operation::Initialize(Initialization::parse(fields)?),
        opcode::OPENDIR => {
            fields.skip(8)?;
            Operation::OpenDirectory
        }
        opcode::READDIR => {
            let (handle, offset, size) = handle_offset_size(fields)?;
            Operation::ReadDirectory { handle, offset, size }
        }
        opcode::READDIRPLUS => {
            let (handle, offset, size) = handle_offset_size(fields)?;
            Operation::ReadDirectoryPlus { handle, offset, size }
        }
        opcode::RELEASEDIR => {
            let (handle, _) = release(fields)?;
            Operation::ReleaseDirectory { handle }
        }
        opcode::FSYNCDIR => {
            let (handle, data_only) = sync(fields)?;
            Operation::SyncDirectory { handle, data_only }
        }
        opcode::GETLK => Operation::GetLock(LockRequest::parse(fields)?),
        opcode::SETLK => Operation::SetLock(LockRequest::parse(fields)?),
        opcode::SETLKW => Operation::WaitForLock(LockRequest::parse(fields)?),
        opcode::CREATE => Operation::Create {
            creation: creation(fields)?,
            name: name(fields)?,
        },
        opcode::TMPFILE => {
            let creation = creation(fields)?;
            // The kernel's name for a file without one is a slash (`vfs_tmpfile`).
            let _name = fields.text()?;
            Operation::TemporaryFile(creation)
        }
        opcode::DESTROY => Operation::Destroy,
        opcode::FALLOCATE => {
            let (handle, offset, length) = (fields.u64()?, fields.u64()?, fields.u64()?);
            let (mode, _padding) = (fields.u32()?, fields.u32()?);
            Operation::Allocate {
                handle,
                offset,
                length,
                mode,
            }
        }
        opcode::LSEEK => {
            let (handle, offset) = (fields.u64()?, fields.u64()?);
            let (whence, _padding) = (fields.u32()?, fields.u32()?);
            Operation::Seek { handle, offset, whence }
        }
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange(copy_file_range(fields)?),
        opcode::SYNCFS => {
            fields.skip(8)?;
            Operation::SyncFileSystem
        }
        _ => return Err(RequestError::Unsupported),
    })
}

fn name<'a>(fields: &mut Fields<'a>) -> Result<Name<'a>, RequestError> {
    Ok(Name::new(fields.text()?)?)
}

fn length(size: u32) -> Result<usize, Malformed> {
    usize::try_from(size).map_err(|_| Malformed)
}

fn rename<'a>(new_parent: u64, flags: u32, fields: &mut Fields<'a>) -> Result<Operation<'a>, RequestError> {
    Ok(Operation::Rename {
        flags,
        name: name(fields)?,
        new_parent,
        new_name: name(fields)?,
    })
}

/// `struct fuse_read_in`.
fn handle_offset_size(fields: &mut Fields<'_>) -> Result<(u64, u64, u32), Malformed> {
    let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
    // read_flags, lock_owner, flags, padding
    fields.skip(20)?;
    Ok((handle, offset, size))
}

/// `struct fuse_write_in` and the data.
fn write<'a>(fields: &mut Fields<'a>) -> Result<Write<'a>, Malformed> {
    let (handle, offset, size) = (fields.u64()?, fields.u64()?, fields.u32()?);
    let (write_flags, _lock_owner, flags, _padding) = (fields.u32()?, fields.u64()?, fields.u32()?, fields.u32()?);
    Ok(Write {
        handle,
        offset,
        flags,
        from_mapping: write_flags & WRITE_CACHE != 0,
        drop_privileges: write_flags & WRITE_KILL_SUIDGID != 0,
        data: fields.bytes(length(size)?)?,
    })
}

/// `struct fuse_release_in`.
fn release(fields: &mut Fields<'_>) -> Result<(u64, bool), Malformed> {
    let (handle, _flags, release_flags, _lock_owner) = (fields.u64()?, fields.u32()?, fields.u32()?, fields.u64()?);
    Ok((handle, release_flags & RELEASE_FLOCK_UNLOCK != 0))
}

/// `struct fuse_fsync_in`.
fn sync(fields: &mut Fields<'_>) -> Result<(u64, bool), Malformed> {
    let (handle, flags, _padding) = (fields.u64()?, fields.u32()?, fields.u32()?);
    Ok((handle, flags & FSYNC_DATA != 0))
}

/// `struct fuse_create_in`.
fn creation(fields: &mut Fields<'_>) -> Result<Creation, Malformed> {
    let (flags, mode, umask, open_flags) = (fields.u32()?, fields.u32()?, fields.u32()?, fields.u32()?);
    Ok(Creation {
        flags,
        mode,
        umask,
        drop_privileges: open_flags & OPEN_KILL_SUIDGID != 0,
    })
}

fn copy_file_range(fields: &mut Fields<'_>) -> Result<CopyFileRange, Malformed> {
    let copy = CopyFileRange {
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

/// The inodes of BATCH_FORGET, each with the number of lookups that the guest forgets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forgets<'a> {
    /// As many pairs of u64 as the request says.
    pairs: &'a [u8],
}

impl<'a> Forgets<'a> {
    fn parse(fields: &mut Fields<'a>) -> Result<Self, Malformed> {
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
