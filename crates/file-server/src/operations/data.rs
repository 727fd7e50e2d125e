//! READ, WRITE, LSEEK, FALLOCATE, COPY_FILE_RANGE and FSYNC.

use std::io::IoSlice;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, copy_file_range, fallocate, fdatasync, fsync};
use rustix::io::{Errno, ReadWriteFlags, pread, pwritev2};

use crate::credentials::Credentials;
use crate::file_system::FileSystem;
use crate::handles::OpenFile;
use crate::protocol::MAX_DATA_BYTES;
use crate::protocol::bodies::{Allocate, CopyFileRange, Fsync, Read, Write};
use crate::protocol::reply::Reply;

/// What FALLOCATE may be asked for, as the guest's kernel restricts it (`fuse_file_fallocate`).
const ALLOCATE_FLAGS: FallocateFlags = FallocateFlags::KEEP_SIZE
    .union(FallocateFlags::PUNCH_HOLE)
    .union(FallocateFlags::ZERO_RANGE);

/// Maximum number of bytes that one COPY_FILE_RANGE copies, so that it does not occupy a thread for long. The caller
/// continues after it.
const MAX_COPY_BYTES: u64 = 256 << 20;

/// The VMM gets the descriptor of a file with the first READ of this many bytes. Passing one costs more than a small
/// READ, and the VMM keeps few.
const PASSED_AFTER_BYTES: usize = 64 << 10;

/// Checks that a range of a file ends at an offset that the kernel supports.
fn check_range(offset: u64, length: u64) -> Result<(), Errno> {
    let end = offset.checked_add(length).and_then(|end| i64::try_from(end).ok());
    end.map(|_| ()).ok_or(Errno::INVAL)
}

pub fn read(file_system: &FileSystem, node: u64, request: Read, reply: &mut Reply) -> Result<(), Errno> {
    let Read { handle, offset, size } = request;
    let file = file_system.handles.file(handle, node)?;
    let size = usize::try_from(size).map_or(MAX_DATA_BYTES, |size| size.min(MAX_DATA_BYTES));
    check_range(offset, size as u64)?;
    let mut done = 0;
    // The guest takes less than it asked for as the end of the file.
    while done < size {
        match pread(&file.descriptor, reply.room(size - done), offset + done as u64) {
            Ok(0) => break,
            Ok(count) => {
                reply.extend(count);
                done += count;
            }
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    // The read has shown that the file is open for reading.
    if done >= PASSED_AFTER_BYTES && !file.is_passed.swap(true, Ordering::Relaxed) {
        reply.attach(Arc::clone(&file.descriptor));
    }
    Ok(())
}

pub fn write(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    node: u64,
    request: Write<'_>,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let file = file_system.handles.file(request.handle, node)?;
    check_range(request.offset, request.data.len() as u64)?;
    let is_append = OFlags::from_bits_retain(request.flags).contains(OFlags::APPEND);
    // Pages of a mapping have their place in the file.
    let flags = if is_append && !request.from_mapping {
        ReadWriteFlags::APPEND
    } else {
        ReadWriteFlags::empty()
    };
    let write = || write_all(&file, request.data, request.offset, flags);
    let written = if request.drop_privileges {
        credentials.without_set_id(write)?
    } else {
        write()?
    };
    write_count(reply, written);
    Ok(())
}

/// Writes as much as possible; an error after a part is left to the next request.
fn write_all(file: &OpenFile, data: &[u8], offset: u64, flags: ReadWriteFlags) -> Result<usize, Errno> {
    let mut done = 0;
    while let Some(rest) = data.get(done..)
        && (!rest.is_empty() || data.is_empty())
    {
        match pwritev2(&file.descriptor, &[IoSlice::new(rest)], offset + done as u64, flags) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Writes `struct fuse_write_out`.
fn write_count(reply: &mut Reply, count: usize) {
    reply.u32(u32::try_from(count).unwrap_or(u32::MAX));
    reply.u32(0);
}

/// Finds data or a hole.
pub fn seek(
    file_system: &FileSystem,
    node: u64,
    handle: u64,
    offset: u64,
    whence: u32,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let file = file_system.handles.file(handle, node)?;
    check_range(offset, 0)?;
    // Nothing uses the position of the descriptor.
    let target = match i32::try_from(whence) {
        Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
        Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
        _ => return Err(Errno::INVAL),
    };
    let found = rustix::fs::seek(&file.descriptor, target)?;
    reply.u64(found);
    Ok(())
}

pub fn allocate(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    node: u64,
    request: Allocate,
) -> Result<(), Errno> {
    let Allocate { offset, length, .. } = request;
    let file = file_system.handles.file(request.handle, node)?;
    let mode = FallocateFlags::from_bits_retain(request.mode);
    if !ALLOCATE_FLAGS.contains(mode) {
        return Err(Errno::OPNOTSUPP);
    }
    check_range(offset, length)?;
    // The request does not say whether the caller may keep set-user-ID. The guest's kernel leaves it to the server.
    credentials.without_set_id(|| fallocate(&file.descriptor, mode, offset, length))
}

pub fn copy(
    file_system: &FileSystem,
    credentials: &mut Credentials,
    node: u64,
    request: CopyFileRange,
    reply: &mut Reply,
) -> Result<(), Errno> {
    let from = file_system.handles.file(request.from_handle, node)?;
    let to = file_system.handles.file(request.to_handle, request.to_node)?;
    let length = request.length.min(MAX_COPY_BYTES);
    check_range(request.from_offset, length)?;
    check_range(request.to_offset, length)?;
    let (mut from_offset, mut to_offset) = (request.from_offset, request.to_offset);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (from, to) = (&from.descriptor, &to.descriptor);
    // As for `allocate`.
    let copied = credentials
        .without_set_id(|| copy_file_range(from, Some(&mut from_offset), to, Some(&mut to_offset), length))?;
    write_count(reply, copied);
    Ok(())
}

pub fn sync(file_system: &FileSystem, node: u64, request: Fsync) -> Result<(), Errno> {
    let file = file_system.handles.file(request.handle, node)?;
    if request.data_only {
        fdatasync(&file.descriptor)
    } else {
        fsync(&file.descriptor)
    }
}
