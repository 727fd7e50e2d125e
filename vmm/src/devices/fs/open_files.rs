//! Files that the guest has open and whose descriptors the server has passed: their data goes from the host's page cache
//! to guest memory in one copy, without a message to the server.
//!
//! The server passes a descriptor with the reply to the first large READ of an open file. Such a file gives the guest
//! nothing that the server would not: it is the one that the guest opened, read at an offset. Everything but READ stays
//! with the server.
//!
//! A READ that is served here may overtake requests that the server has. The guest's kernel relies on no order of
//! requests in flight: the server serves them with several threads, too. Without a writeback cache, write(2) waits for
//! its WRITE (`fuse_perform_write`), so whatever reads after it finds the data in the host's page cache. A page of a
//! mapping is not read while it is being written, because it is still in the guest's cache, and a direct read waits for
//! such pages first. RELEASE comes after the replies to all READs of the file (`fuse_file_put`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use super::message::Read;
use super::request::Request;

/// Maximum number of files. Each holds a descriptor of the VMM; others are read through the server.
pub const MAX_FILES: usize = 64;
/// Maximum number of bytes of one READ, as for the server.
pub const MAX_READ_BYTES: usize = 1 << 20;

#[derive(Debug)]
struct OpenFile {
    /// The inode that a request must name, too.
    node: u64,
    file: File,
}

/// The files, by the guest's handle.
#[derive(Debug)]
pub struct OpenFiles {
    files: BTreeMap<u64, OpenFile>,
    /// Flags of preadv2(2).
    flags: libc::c_int,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            // This thread serves all requests, so it must not wait for a disk; the server can.
            flags: libc::RWF_NOWAIT,
        }
    }
}

impl OpenFiles {
    /// Keeps the file of a READ that the server has answered, unless there are too many. A handle keeps its first file,
    /// because the server passes one only once.
    pub fn insert(&mut self, read: Read, file: File) {
        if self.files.len() < MAX_FILES {
            let opened = OpenFile { node: read.node, file };
            self.files.entry(read.handle).or_insert(opened);
        }
    }

    /// Closes the file with this handle.
    pub fn remove(&mut self, handle: u64) {
        self.files.remove(&handle);
    }

    /// Closes all files.
    pub fn clear(&mut self) {
        self.files.clear();
    }

    /// Reads into the body of the reply, and returns its length; `None` if the server must serve the request. What was
    /// read until then is overwritten by the server's reply.
    pub fn read(&mut self, read: Read, request: &Request) -> Option<usize> {
        let opened = self.files.get(&read.handle)?;
        let size = read.size.min(MAX_READ_BYTES);
        let end = read.offset.checked_add(size as u64)?;
        let offset = libc::off_t::try_from(read.offset).ok()?;
        // The server answers what is not a valid READ.
        let is_valid = opened.node == read.node && size > 0 && read.size <= request.body_room();
        if !is_valid || libc::off_t::try_from(end).is_err() {
            return None;
        }
        match request.read_body_at(opened.file.as_fd(), offset, size, self.flags) {
            Ok(count) if count == size || is_end(&opened.file, read.offset.saturating_add(count as u64)) => Some(count),
            // The rest is not in the page cache.
            Ok(_) => None,
            Err(error) => {
                if !is_passing(&error) {
                    self.remove(read.handle);
                }
                None
            }
        }
    }

    /// Lets reads wait, so that files of file systems without `RWF_NOWAIT` (tmpfs, memfd) are read as well.
    #[cfg(any(test, fuzzing))]
    pub fn wait(&mut self) {
        self.flags = 0;
    }

    #[cfg(any(test, fuzzing))]
    pub fn count(&self) -> usize {
        self.files.len()
    }
}

/// Whether a later read can succeed. Others would only repeat the error, such as `EOPNOTSUPP` of a file system without
/// `RWF_NOWAIT`.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Whether the file ends at or before an offset. The guest takes less than it asked for as the end of the file.
fn is_end(file: &File, offset: u64) -> bool {
    // SAFETY: zeros are a valid statx structure.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // C libraries use various system calls for fstat(3), and the filter of this thread has one. Unlike them, it can be
    // told not to ask another machine.
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: an open descriptor, an empty text, and a structure that the kernel writes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            flags,
            libc::STATX_SIZE,
            &raw mut status,
        )
    };
    result == 0 && status.stx_mask & libc::STATX_SIZE != 0 && offset >= status.stx_size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_in_the_page_cache_stays_and_one_that_cannot_be_read_so_does_not() {
        for (error, stays) in [
            (libc::EAGAIN, true),
            (libc::EINTR, true),
            (libc::EOPNOTSUPP, false),
            (libc::ESPIPE, false),
            (libc::EISDIR, false),
        ] {
            assert_eq!(is_passing(&io::Error::from_raw_os_error(error)), stays, "{error}");
        }
    }

    #[test]
    fn the_end_of_a_file_is_found_and_other_files_have_none() {
        let file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.set_len(1 << 40).unwrap();
        assert!(is_end(&file, 1 << 40) && is_end(&file, u64::MAX));
        assert!(!is_end(&file, (1 << 40) - 1) && !is_end(&file, 0));
    }
}
