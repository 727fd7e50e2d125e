//! A simulated driver and a simulated file server for tests and the fuzzer: real queues in guest memory, a real socket.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use super::super::virtio::driver::{Driver, FREE, WRITE};
use super::super::virtio::worker::{Active, Backend, Poll};
use super::device::{QUEUE_COUNT, QUEUE_SIZE};
use super::message::{REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader, RequestHeader};
use super::worker::FsBackend;

pub const HIGH_PRIORITY: usize = 0;
pub const REQUESTS: usize = 1;
/// Opcodes: any with a reply, and one without.
pub const GETATTR: u32 = 3;
pub const FORGET: u32 = 2;
/// Opcodes that concern open files.
pub const READ: u32 = 15;
pub const RELEASE: u32 = 18;
const MEMORY_BYTES: usize = 64 << 20;
/// The server's end of the socket.
pub struct Server {
    pub stream: UnixStream,
    received: Vec<u8>,
}

impl Server {
    fn new(stream: UnixStream) -> Self {
        stream.set_nonblocking(true).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// Reads all that has arrived; `false` if nothing has.
    pub fn read(&mut self) -> bool {
        let before = self.received.len();
        // It ends with an error, because the device does not close its end.
        let _ = self.stream.read_to_end(&mut self.received);
        self.received.len() > before
    }

    /// Whether all that was read are complete requests, and they were taken.
    pub fn is_between_requests(&self) -> bool {
        self.received.is_empty()
    }

    /// The next request: its header and data.
    pub fn request(&mut self) -> Option<(RequestHeader, Vec<u8>)> {
        self.read();
        let length = usize::try_from(u32::from_le_bytes(self.received.get(..4)?.try_into().unwrap())).unwrap();
        if self.received.len() < length {
            return None;
        }
        let mut message: Vec<u8> = self.received.drain(..length).collect();
        let data = message.split_off(REQUEST_HEADER_BYTES);
        Some((RequestHeader::parse(message.try_into().unwrap()), data))
    }
}

/// A request's header.
pub fn request_header(length: usize, opcode: u32, unique: u64) -> [u8; REQUEST_HEADER_BYTES] {
    let mut bytes = [0x5a; REQUEST_HEADER_BYTES];
    bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
    bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
    bytes[8..16].copy_from_slice(&unique.to_le_bytes());
    bytes
}

/// The header and body of a READ of the inode `node`.
pub fn read_request(
    node: u64,
    handle: u64,
    offset: u64,
    size: u32,
    unique: u64,
) -> ([u8; REQUEST_HEADER_BYTES], [u8; 40]) {
    let mut header = request_header(REQUEST_HEADER_BYTES + 40, READ, unique);
    header[16..24].copy_from_slice(&node.to_le_bytes());
    let mut body = [0; 40];
    body[..8].copy_from_slice(&handle.to_le_bytes());
    body[8..16].copy_from_slice(&offset.to_le_bytes());
    body[16..20].copy_from_slice(&size.to_le_bytes());
    (header, body)
}

/// A file in memory.
pub fn memory_file(content: &[u8]) -> File {
    // SAFETY: the name ends with a zero; the descriptor that the kernel returns is ours.
    let file = unsafe { File::from_raw_fd(libc::memfd_create(c"file".as_ptr(), libc::MFD_CLOEXEC)) };
    (&file).write_all(content).unwrap();
    file
}

/// A reply as a server writes it.
pub fn reply(tag: u64, error: i32, data: &[u8]) -> Vec<u8> {
    let header = ReplyHeader {
        length: REPLY_HEADER_BYTES + data.len(),
        error,
        unique: tag,
    };
    [&header.to_bytes()[..], data].concat()
}

/// A request in guest memory.
pub struct Asked {
    queue: usize,
    pub head: u16,
    /// Address of its data.
    pub data: u64,
    /// Address of the reply.
    pub reply: u64,
}

/// A device with its driver and its server.
pub struct Fs {
    pub driver: Driver,
    pub active: Active,
    pub backend: FsBackend,
    pub poll: Poll,
    pub server: Server,
    free: u64,
}

impl Fs {
    pub fn new() -> Self {
        Self::with_memory(MEMORY_BYTES)
    }

    /// The guest has this much memory.
    pub fn with_memory(bytes: usize) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let driver = Driver::new(bytes, QUEUE_COUNT, QUEUE_SIZE);
        let mut backend = FsBackend::new(OwnedFd::from(ours)).unwrap();
        let poll = Poll::new().unwrap();
        backend.start(&poll).unwrap();
        let mut active = driver.active(0);
        backend.activate(&mut active, &poll).unwrap();
        Self {
            driver,
            active,
            backend,
            poll,
            server: Server::new(theirs),
            free: FREE,
        }
    }

    /// Reserves guest memory.
    pub fn place(&mut self, length: usize) -> u64 {
        let place = self.free;
        self.free += length as u64;
        place
    }

    /// Offers a request whose data and room for the reply's data are split at these lengths.
    pub fn ask_split(&mut self, queue: usize, header: &[u8], data: &[&[u8]], room: &[usize]) -> Asked {
        let mut descriptors = Vec::new();
        let at = self.place(header.len());
        self.driver.memory.write_slice(header, GuestAddress(at)).unwrap();
        descriptors.push((at, u32::try_from(header.len()).unwrap(), 0));
        let data_at = self.free;
        for data in data {
            let at = self.place(data.len());
            self.driver.memory.write_slice(data, GuestAddress(at)).unwrap();
            descriptors.push((at, u32::try_from(data.len()).unwrap(), 0));
        }
        let reply_at = self.free;
        for room in room {
            descriptors.push((self.place(*room), u32::try_from(*room).unwrap(), WRITE));
        }
        Asked {
            queue,
            head: self.driver.offer(queue, &descriptors),
            data: data_at,
            reply: reply_at,
        }
    }

    /// Offers a request as Linux does: header, data, room for the reply's header, room for its data.
    pub fn ask(&mut self, unique: u64, data: &[u8], room: usize) -> Asked {
        let header = request_header(REQUEST_HEADER_BYTES + data.len(), GETATTR, unique);
        self.ask_split(REQUESTS, &header, &[data], &[REPLY_HEADER_BYTES, room])
    }

    /// Offers a READ with room for as many bytes as it asks for.
    pub fn ask_read(&mut self, node: u64, handle: u64, offset: u64, size: u32) -> Asked {
        let (header, body) = read_request(node, handle, offset, size, 1);
        let room = usize::try_from(size).unwrap();
        self.ask_split(REQUESTS, &header, &[&body], &[REPLY_HEADER_BYTES, room])
    }

    /// Offers a request with this opcode and body.
    pub fn ask_for(&mut self, opcode: u32, body: &[u8]) -> Asked {
        let header = request_header(REQUEST_HEADER_BYTES + body.len(), opcode, 1);
        self.ask_split(REQUESTS, &header, &[body], &[REPLY_HEADER_BYTES])
    }

    /// The server writes bytes with descriptors attached, and the device receives them.
    pub fn reply_with(&mut self, bytes: &[u8], files: &[&File]) {
        let descriptors: Vec<_> = files.iter().map(|file| file.as_raw_fd()).collect();
        let sent = self.server.stream.send_with_fds(&[bytes], &descriptors).unwrap();
        self.socket_ready();
        self.reply(&bytes[sent..]);
    }

    /// The number of files that the device has.
    pub fn open_files(&mut self) -> usize {
        self.backend.files().map_or(0, |files| files.count())
    }

    pub fn forget(&mut self, unique: u64) -> Asked {
        let header = request_header(REQUEST_HEADER_BYTES + 8, FORGET, unique);
        self.ask_split(HIGH_PRIORITY, &header, &[&[9; 8]], &[])
    }

    /// The driver notifies the device, which works until it waits.
    pub fn notify(&mut self) {
        self.backend
            .queue_ready(REQUESTS, &mut self.active, &self.poll)
            .unwrap();
        while self.poll.takes_another_turn() {
            self.notify();
        }
    }

    /// The socket is ready for reading and writing, and the device works until it waits.
    pub fn socket_ready(&mut self) {
        let events = EventSet::IN | EventSet::OUT;
        self.backend
            .host_ready(0, events, Some(&mut self.active), &self.poll)
            .unwrap();
        while self.poll.takes_another_turn() {
            self.socket_ready();
        }
    }

    /// The next request that the server gets, also if it does not fit into the socket at once.
    pub fn served(&mut self) -> Option<(RequestHeader, Vec<u8>)> {
        self.notify();
        loop {
            if let Some(request) = self.server.request() {
                return Some(request);
            }
            self.socket_ready();
            if !self.server.read() {
                return None;
            }
        }
    }

    /// The server writes bytes, and the device receives them.
    pub fn reply(&mut self, mut bytes: &[u8]) {
        let mut was_full = false;
        while !bytes.is_empty() {
            match self.server.stream.write(bytes) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    was_full = false;
                }
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert!(!was_full, "the device makes room");
                    was_full = true;
                }
            }
            self.socket_ready();
        }
    }

    /// The server ends.
    pub fn end_server(&mut self) {
        self.server = Server::new(UnixStream::pair().unwrap().0);
        let events = EventSet::IN | EventSet::READ_HANG_UP | EventSet::HANG_UP;
        self.backend
            .host_ready(0, events, Some(&mut self.active), &self.poll)
            .unwrap();
    }

    pub fn reset(&mut self) {
        self.backend.reset(&self.poll);
        // A new driver, with new rings; what the old one left in memory stays.
        for queue in 0..QUEUE_COUNT {
            self.driver.set_available(queue, 0);
            let used = GuestAddress(Driver::used_ring(queue) + 2);
            self.driver.memory.write_obj(0u16, used).unwrap();
        }
        self.active = self.driver.active(0);
        self.backend.activate(&mut self.active, &self.poll).unwrap();
    }

    /// The reply to a request, if it has been returned: its header, its data and the length that the device stated.
    pub fn answer(&self, asked: &Asked) -> Option<(ReplyHeader, Vec<u8>, u32)> {
        let used = self.driver.used(asked.queue);
        let mut entries = (0..used).map(|index| self.driver.used_entry(asked.queue, index));
        let (_, length) = entries.find(|(head, _)| *head == asked.head)?;
        let mut bytes = [0; REPLY_HEADER_BYTES];
        let at = GuestAddress(asked.reply);
        self.driver.memory.read_slice(&mut bytes, at).unwrap();
        let header = ReplyHeader::parse(bytes);
        let mut data = vec![0; header.body().unwrap_or(0)];
        let at = GuestAddress(asked.reply + REPLY_HEADER_BYTES as u64);
        self.driver.memory.read_slice(&mut data, at).unwrap();
        Some((header, data, length))
    }

    /// The error number of an answer that consists of nothing else.
    pub fn failure(&self, asked: &Asked, unique: u64) -> i32 {
        let (header, _, length) = self.answer(asked).expect("an answer");
        assert_eq!(header, ReplyHeader::failure(unique, -header.error));
        assert_eq!(usize::try_from(length).unwrap(), REPLY_HEADER_BYTES);
        -header.error
    }
}
