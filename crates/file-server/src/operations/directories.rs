//! READDIR, READDIRPLUS and FSYNCDIR.

use std::mem::MaybeUninit;
use std::sync::{Arc, PoisonError};

use rustix::fs::{FileType, RawDir, SeekFrom, fdatasync, fsync};
use rustix::io::Errno;

use super::entries;
use crate::file_system::FileSystem;
use crate::handles::{Handle, OpenDirectory};
use crate::inodes::ROOT;
use crate::protocol::MAX_DATA_BYTES;
use crate::protocol::attributes::Entry;
use crate::protocol::bodies::{Fsync, Read};
use crate::protocol::directory_entries::{DirectoryEntry, EntryWriter, Full};
use crate::protocol::name::Name;
use crate::protocol::reply::Reply;
use crate::share::Share;

/// Bytes of host entries that are read at a time.
const BUFFER_BYTES: usize = 16 * 1024;

pub fn read(file_system: &FileSystem, node: u64, request: Read, reply: &mut Reply) -> Result<(), Errno> {
    read_entries(file_system, node, request, reply, |writer, _, entry| {
        writer.write(entry)
    })
}

/// Reads entries with their inodes, each of which counts as a lookup.
pub fn read_plus(file_system: &FileSystem, node: u64, request: Read, reply: &mut Reply) -> Result<(), Errno> {
    read_entries(file_system, node, request, reply, |writer, directory, entry| {
        writer.write_with(entry, || look_up(file_system, directory?, entry.name))
    })
}

/// The inode of an entry; nothing for `.`, `..`, and an entry that has just been removed.
fn look_up(file_system: &FileSystem, directory: &OpenDirectory, name: &[u8]) -> Option<Entry> {
    let with_zero = [name, b"\0"].concat();
    let name = std::ffi::CStr::from_bytes_with_nul(&with_zero).ok()?;
    let found = directory.inode.find(Name::new(name).ok()?).ok()?;
    entries::of_file(file_system, found, &directory.inode.key).ok()
}

/// Writes an entry of a directory, or of the root directory.
type WriteEntry<'a> =
    dyn FnMut(&mut EntryWriter<'_>, Option<&OpenDirectory>, &DirectoryEntry<'_>) -> Result<(), Full> + 'a;

fn read_entries(
    file_system: &FileSystem,
    node: u64,
    request: Read,
    reply: &mut Reply,
    mut write: impl FnMut(&mut EntryWriter<'_>, Option<&OpenDirectory>, &DirectoryEntry<'_>) -> Result<(), Full>,
) -> Result<(), Errno> {
    let limit = usize::try_from(request.size).map_or(MAX_DATA_BYTES, |size| size.min(MAX_DATA_BYTES));
    let mut writer = EntryWriter::new(reply, limit);
    match file_system.handles.get(request.handle)? {
        Handle::Directory(directory) if directory.inode.number == node => {
            read_directory(file_system, &directory, request.offset, &mut writer, &mut write)
        }
        Handle::Root(shares) if node == ROOT => {
            read_root(&shares, request.offset, &mut writer, &mut write);
            Ok(())
        }
        _ => Err(Errno::BADF),
    }
}

fn read_directory(
    file_system: &FileSystem,
    directory: &OpenDirectory,
    offset: u64,
    writer: &mut EntryWriter<'_>,
    write: &mut WriteEntry<'_>,
) -> Result<(), Errno> {
    if i64::try_from(offset).is_err() {
        return Err(Errno::INVAL);
    }
    let descriptor = directory.descriptor.lock().unwrap_or_else(PoisonError::into_inner);
    // Entries that were read and found no room in the last reply are read again.
    rustix::fs::seek(&*descriptor, SeekFrom::Start(offset))?;
    let mut buffer = vec![MaybeUninit::uninit(); BUFFER_BYTES];
    let mut host_entries = RawDir::new(&*descriptor, &mut buffer);
    while let Some(entry) = host_entries.next() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) if writer.is_empty() => return Err(error),
            Err(_) => break,
        };
        let file_type = match entry.file_type() {
            FileType::Unknown => 0,
            known => known.as_raw_mode() >> 12,
        };
        let entry = DirectoryEntry {
            inode: file_system.inode_number(&directory.inode.key.with_inode(entry.ino()))?,
            next_offset: entry.next_entry_cookie(),
            file_type,
            name: entry.file_name().to_bytes(),
        };
        if write(writer, Some(directory), &entry) == Err(Full) {
            break;
        }
    }
    Ok(())
}

/// The guest looks shares up when it needs them.
fn read_root(shares: &Arc<[Arc<Share>]>, offset: u64, writer: &mut EntryWriter<'_>, write: &mut WriteEntry<'_>) {
    let names = [b".".as_slice(), b".."];
    let names = names
        .into_iter()
        .chain(shares.iter().map(|share| share.name().to_bytes()));
    let directory = libc::DT_DIR.into();
    let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
    for (index, name) in names.enumerate().skip(skipped) {
        let entry = DirectoryEntry {
            inode: ROOT,
            next_offset: index as u64 + 1,
            // Shares may be files, too.
            file_type: if index < 2 { directory } else { 0 },
            name,
        };
        if write(writer, None, &entry) == Err(Full) {
            break;
        }
    }
}

pub fn sync(file_system: &FileSystem, node: u64, request: Fsync) -> Result<(), Errno> {
    match file_system.handles.get(request.handle)? {
        Handle::Directory(directory) if directory.inode.number == node => {
            let descriptor = directory.descriptor.lock().unwrap_or_else(PoisonError::into_inner);
            if request.data_only {
                fdatasync(&*descriptor)
            } else {
                fsync(&*descriptor)
            }
        }
        Handle::Root(_) if node == ROOT => Ok(()),
        _ => Err(Errno::BADF),
    }
}
