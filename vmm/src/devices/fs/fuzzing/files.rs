//! The files of the fuzzer's server, whose descriptors it passes.

use std::fs::File;
use std::os::fd::AsRawFd;

use super::super::driver::memory_file;
use super::super::message::FileRequest;

/// Lengths of the files, which are named by handles from 0 on.
pub(super) const LENGTHS: [usize; 4] = [0, 100, 5000, 0x9000];

/// A byte of a file, below 128. The server's other data is not.
fn byte_of(handle: usize, at: usize) -> u8 {
    (handle * 29 + at * 13 + at / 256).to_le_bytes()[0] & 0x7f
}

/// The files of the server.
pub(super) struct Files {
    /// `None` if it was never passed.
    files: [Option<File>; LENGTHS.len()],
    lengths: [usize; LENGTHS.len()],
    /// READs that the server has got: their tags and the places of their files.
    pub(super) reads: Vec<(u64, usize)>,
}

impl Files {
    pub(super) fn new() -> Self {
        Self {
            files: Default::default(),
            lengths: LENGTHS,
            reads: Vec::new(),
        }
    }

    /// The server has got this request.
    pub(super) fn note(&mut self, tag: u64, request: FileRequest) {
        if let FileRequest::Read(read) = request
            && let Ok(handle) = usize::try_from(read.handle)
            && handle < LENGTHS.len()
        {
            self.reads.push((tag, handle));
        }
    }

    pub(super) fn descriptor(&mut self, handle: usize) -> i32 {
        let length = self.lengths[handle];
        let content = || (0..length).map(|at| byte_of(handle, at)).collect::<Vec<_>>();
        self.files[handle]
            .get_or_insert_with(|| memory_file(&content()))
            .as_raw_fd()
    }

    /// Whether a read at `offset` of `size` bytes may have this result.
    pub(super) fn may_have(&self, offset: usize, size: usize, data: &[u8]) -> bool {
        (0..LENGTHS.len())
            .filter(|handle| self.files[*handle].is_some())
            .any(|handle| {
                let length = size.min(self.lengths[handle].saturating_sub(offset));
                data.len() == length && (offset..).zip(data).all(|(at, byte)| *byte == byte_of(handle, at))
            })
    }

    /// Makes a file shorter.
    pub(super) fn truncate(&mut self, handle: usize, length: usize) {
        if let Some(file) = &self.files[handle] {
            let length = length.min(self.lengths[handle]);
            file.set_len(length as u64).unwrap();
            self.lengths[handle] = length;
        }
    }
}
