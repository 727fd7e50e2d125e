//! Requests: one variant for each operation that the server supports, with the fields that it uses.

use std::ffi::CStr;

use super::bodies::{Allocate, CopyFileRange, Creation, Forgets, Fsync, Open, Read, Release, Write, length};
use super::fields::{Fields, Malformed};
use super::header::RequestHeader;
use super::initialization::Initialization;
use super::locks::LockRequest;
use super::name::{Name, NameError};
use super::opcode;
use super::set_attributes::SetAttributes;

/// `FUSE_SETXATTR_ACL_KILL_SGID`: the caller is not in the group of the file.
const SETXATTR_ACL_KILL_SGID: u32 = 1;

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
    Open(Open),
    Read(Read),
    Write(Write<'a>),
    FileSystemStatus,
    Release(Release),
    Sync(Fsync),
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
    ReadDirectory(Read),
    ReadDirectoryPlus(Read),
    ReleaseDirectory {
        handle: u64,
    },
    SyncDirectory(Fsync),
    GetLock(LockRequest),
    SetLock(LockRequest),
    WaitForLock(LockRequest),
    Create {
        creation: Creation,
        name: Name<'a>,
    },
    TemporaryFile(Creation),
    Destroy,
    Allocate(Allocate),
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
        opcode::OPEN => Operation::Open(Open::parse(fields)?),
        opcode::READ => Operation::Read(Read::parse(fields)?),
        opcode::WRITE => Operation::Write(Write::parse(fields)?),
        opcode::STATFS => Operation::FileSystemStatus,
        opcode::RELEASE => Operation::Release(Release::parse(fields)?),
        opcode::FSYNC => Operation::Sync(Fsync::parse(fields)?),
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
        opcode::READDIR => Operation::ReadDirectory(Read::parse(fields)?),
        opcode::READDIRPLUS => Operation::ReadDirectoryPlus(Read::parse(fields)?),
        opcode::RELEASEDIR => Operation::ReleaseDirectory {
            handle: Release::parse(fields)?.handle,
        },
        opcode::FSYNCDIR => Operation::SyncDirectory(Fsync::parse(fields)?),
        opcode::GETLK => Operation::GetLock(LockRequest::parse(fields)?),
        opcode::SETLK => Operation::SetLock(LockRequest::parse(fields)?),
        opcode::SETLKW => Operation::WaitForLock(LockRequest::parse(fields)?),
        opcode::CREATE => Operation::Create {
            creation: Creation::parse(fields)?,
            name: name(fields)?,
        },
        opcode::TMPFILE => {
            let creation = Creation::parse(fields)?;
            // The kernel's name for a file without one is a slash (`vfs_tmpfile`).
            let _name = fields.text()?;
            Operation::TemporaryFile(creation)
        }
        opcode::DESTROY => Operation::Destroy,
        opcode::FALLOCATE => Operation::Allocate(Allocate::parse(fields)?),
        opcode::LSEEK => {
            let (handle, offset) = (fields.u64()?, fields.u64()?);
            let (whence, _padding) = (fields.u32()?, fields.u32()?);
            Operation::Seek { handle, offset, whence }
        }
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange(CopyFileRange::parse(fields)?),
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

fn rename<'a>(new_parent: u64, flags: u32, fields: &mut Fields<'a>) -> Result<Operation<'a>, RequestError> {
    Ok(Operation::Rename {
        flags,
        name: name(fields)?,
        new_parent,
        new_name: name(fields)?,
    })
}
