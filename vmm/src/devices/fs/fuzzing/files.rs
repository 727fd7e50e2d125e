//! READs of files whose descriptors the server passes: what the device reads itself is what is in one of them.

use std::fs::File;
use std::os::fd::AsRawFd;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::super::virtio::driver::WRITE;
use super::super::driver::{RELEASE, REQUESTS, memory_file, read_request, reply, request_header};
use super::super::message::{FileRequest, REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader};
use super::super::open_files::MAX_FILES;
use super::input::Input;
use super::{Attack, FILE_REPLY, FILE_REQUEST, MAX_FILE_READ, OTHER_DATA};

const NODE: u64 = 5;
/// Lengths of the files, which are named by handles from 0 on.
const LENGTHS: [usize; 4] = [0, 100, 5000, 0x9000];

/// A byte of a file. None of them is [`OTHER_DATA`].
fn byte_of(handle: usize, at: usize) -> u8 {
    (handle * 29 + at * 13 + at / 256).to_le_bytes()[0] & 0x7f
}

/// The files of the server.
pub(super) struct Files {
    files: [Option<File>; LENGTHS.len()],
    lengths: [usize; LENGTHS.len()],
    /// READs that the server has got: their tags and the places of their files.
    reads: Vec<(u64, usize)>,
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

    fn descriptor(&mut self, handle: usize) -> i32 {
        let length = self.lengths[handle];
        let content = || (0..length).map(|at| byte_of(handle, at)).collect::<Vec<_>>();
        self.files[handle]
            .get_or_insert_with(|| memory_file(&content()))
            .as_raw_fd()
    }

    /// Whether a read at `offset` of `size` bytes may have this result.
    fn may_have(&self, offset: usize, size: usize, data: &[u8]) -> bool {
        (0..LENGTHS.len())
            .filter(|handle| self.files[*handle].is_some())
            .any(|handle| {
                let length = size.min(self.lengths[handle].saturating_sub(offset));
                data.len() == length && (offset..).zip(data).all(|(at, byte)| *byte == byte_of(handle, at))
            })
    }
}

impl Attack {
    /// The server answers a READ, or another request, and attaches the file.
    pub(super) fn pass_file(&mut self, input: &mut Input<'_>) {
        let [choice, kind] = [(); 2].map(|()| input.byte());
        let reads = &self.files.reads;
        let place = reads.len().checked_sub(1 + usize::from(choice));
        let (tag, handle) = place.map_or_else(
            || {
                (
                    self.tags.last().copied().unwrap_or(0),
                    usize::from(choice) % LENGTHS.len(),
                )
            },
            |place| reads[place],
        );
        let error = if kind & 8 == 0 { 0 } else { -libc::EACCES };
        let message = reply(tag, error, &vec![OTHER_DATA; usize::from(kind & 7)]);
        // What was sent before comes first.
        let written = std::io::Write::write(&mut self.fs.server.stream, &self.outgoing).unwrap_or(0);
        self.outgoing.drain(..written);
        if !self.outgoing.is_empty() {
            return;
        }
        let mut descriptors = vec![self.files.descriptor(handle)];
        if kind >> 4 == 15 {
            descriptors.push(self.files.descriptor((handle + 1) % LENGTHS.len()));
        }
        let sent = self.fs.server.stream.send_with_fds(&[&message[..]], &descriptors);
        self.send(&message[sent.unwrap_or(message.len())..]);
    }

    /// A file of the server becomes shorter.
    pub(super) fn truncate_file(&mut self, input: &mut Input<'_>) {
        let (handle, length) = (usize::from(input.byte()) % LENGTHS.len(), usize::from(input.short()));
        if let Some(file) = &self.files.files[handle] {
            let length = length.min(self.files.lengths[handle]);
            file.set_len(length as u64).unwrap();
            self.files.lengths[handle] = length;
        }
    }

    pub(super) fn release_file(&mut self, input: &mut Input<'_>) {
        let header = request_header(REQUEST_HEADER_BYTES + 24, RELEASE, 1);
        self.write(FILE_REQUEST, &header);
        let handle = u64::from(input.byte() % 5).to_le_bytes();
        self.write(FILE_REQUEST + REQUEST_HEADER_BYTES as u64, &handle);
        self.offer(REQUESTS, &[(FILE_REQUEST, 64, 0), (FILE_REPLY, 16, WRITE)]);
    }

    /// A READ as Linux sends it, at a place of its own. If it reached no server, the data is checked.
    pub(super) fn read_file(&mut self, input: &mut Input<'_>) {
        let (handle, offset, size) = (u64::from(input.byte() % 5), input.short(), input.short());
        let size = usize::from(size) % (MAX_FILE_READ + 1);
        let (header, body) = read_request(NODE, handle, offset.into(), u32::try_from(size).unwrap(), 1);
        self.write(FILE_REQUEST, &[&header[..], &body].concat());
        let room = u32::try_from(REPLY_HEADER_BYTES + size).unwrap();
        let before = self.chains.len();
        self.offer(REQUESTS, &[(FILE_REQUEST, 80, 0), (FILE_REPLY, room, WRITE)]);
        let start = usize::try_from(FILE_REPLY).unwrap();
        let mut others = self.chains[..before].iter().filter(|chain| chain.outstanding > 0);
        let is_alone = others.all(|chain| {
            let mut places = chain.writable.iter();
            places.all(|(at, length)| at + length <= start || *length == 0)
        });
        let submitted = self.fs.backend.submitted();
        let returned = self.run(true);
        assert!(self.fs.backend.files().is_none_or(|files| files.count() <= MAX_FILES));
        let returned = returned.iter().find(|returned| returned.chain == before);
        let Some(returned) = returned.filter(|_| is_alone && self.rings_are_intact && self.running) else {
            return;
        };
        if submitted.is_none() || self.fs.backend.submitted() != submitted {
            return;
        }
        let mut bytes = vec![0; returned.written];
        let memory = &self.fs.driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(FILE_REPLY)).unwrap();
        let data = bytes.split_off(REPLY_HEADER_BYTES);
        let header = ReplyHeader::parse(bytes.try_into().unwrap());
        assert_eq!((header.length, header.error, header.unique), (returned.written, 0, 1));
        assert!(
            self.files.may_have(offset.into(), size, &data),
            "the device read something else"
        );
    }
}
