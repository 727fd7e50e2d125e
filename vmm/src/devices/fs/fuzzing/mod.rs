//! Entry point for the fuzzer (`tests/fuzz`), which cannot reach the device without its thread: a driver and a file
//! server that do anything, and what must hold for the device between them.

mod chains;
mod files;
mod input;
mod reads;
mod rules;

use std::io::Write;
use std::net::Shutdown;

use vm_memory::{Bytes, GuestAddress};

use self::files::Files;
use self::input::Input;
use super::super::virtio::driver::FREE;
use super::device::{QUEUE_COUNT, QUEUE_SIZE};
use super::driver::{Fs, REQUESTS, reply};
use super::message::REPLY_HEADER_BYTES;

/// Indirect tables, and the last request, are in front of the buffers, so no reply overwrites them.
const BUFFERS: u64 = FREE + 0x8000;
/// A buffer's address and length have 16 bits each; a request's header may be in front of it. Requests for files, and
/// their replies, follow.
const FILE_REQUEST: u64 = 0x3_8100;
const FILE_REPLY: u64 = FILE_REQUEST + 0x80;
const MAX_FILE_READ: usize = 0x4000;
const MEMORY_BYTES: usize = 0x3_c200;
/// The data of the server's replies.
const OTHER_DATA: u8 = 0xee;
const MAX_STEPS: usize = 300;
/// Maximum number of descriptors and KiB that the device is given, so that a run does not take long.
const MAX_WORK: usize = 20_000;
/// Maximum number of bytes that wait for the server to write them.
const MAX_OUTGOING_BYTES: usize = 4 << 20;
/// The guest's name for its last request.
const LAST_UNIQUE: u64 = 0x1234_5678_9abc_def0;

/// The bytes are the steps of the driver and of the server ([`Attack::step`]).
///
/// # Panics
///
/// If the device breaks a rule.
pub fn messages(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut attack = Attack::new();
    for _ in 0..MAX_STEPS {
        if input.0.is_empty() {
            break;
        }
        attack.step(&mut input);
    }
    attack.end();
}

/// A chain that the driver has offered.
struct Offered {
    queue: usize,
    head: u16,
    /// Its descriptors and KiB to read.
    work: usize,
    /// First bytes and lengths of its writable buffers.
    writable: Vec<(usize, usize)>,
    /// How many times it was offered and not returned.
    outstanding: usize,
}

/// A chain that the device has returned.
struct Returned {
    /// The chain's place in [`Attack::chains`].
    chain: usize,
    written: usize,
}

struct Attack {
    fs: Fs,
    /// `false` from a broken rule of the driver to its next reset.
    running: bool,
    /// Whether the rings and tables have what this driver wrote there. Otherwise the device may write anywhere.
    rings_are_intact: bool,
    /// The chains since the last reset.
    chains: Vec<Offered>,
    /// For each queue: descriptors of its table that are unused, times that a chain was offered, chains returned.
    unused: [usize; QUEUE_COUNT],
    offered: [usize; QUEUE_COUNT],
    used: [u16; QUEUE_COUNT],
    work_left: usize,
    /// The tags of the requests that the server has read.
    tags: Vec<u64>,
    /// What the server has still to write.
    outgoing: Vec<u8>,
    files: Files,
}

impl Attack {
    fn new() -> Self {
        let mut fs = Fs::with_memory(MEMORY_BYTES);
        // Its files are in memory.
        fs.backend.files().unwrap().wait();
        Self {
            fs,
            running: true,
            rings_are_intact: true,
            chains: Vec::new(),
            unused: [QUEUE_SIZE.into(); QUEUE_COUNT],
            offered: [0; QUEUE_COUNT],
            used: [0; QUEUE_COUNT],
            work_left: MAX_WORK,
            tags: Vec::new(),
            outgoing: Vec::new(),
            files: Files::new(),
        }
    }

    /// A step begins with its kind, whose upper bits say whether the device notices it, and how.
    fn step(&mut self, input: &mut Input<'_>) {
        let kind = input.byte();
        match kind % 16 {
            0..=3 => self.request(input),
            4 => self.chain(input),
            5 => self.offer_again(input),
            6 => {
                let (at, count) = (input.short(), input.byte());
                self.write(BUFFERS + u64::from(at), input.bytes(count.into()));
            }
            7 => {
                let (at, count) = (input.short(), input.byte());
                self.write(u64::from(at), input.bytes(count.into()));
                self.rings_are_intact = false;
            }
            8 => {
                let count = input.byte();
                self.send(input.bytes(count.into()));
            }
            9 | 10 => self.reply(input),
            11 | 12 => {
                let count = match input.short() {
                    0 => self.outgoing.len(),
                    count => self.outgoing.len().min(count.into()),
                };
                let written = self.fs.server.stream.write(&self.outgoing[..count]).unwrap_or(0);
                self.outgoing.drain(..written);
            }
            13 => {
                self.read_requests();
            }
            14 => self.reset(),
            _ => match input.byte() % 16 {
                0 => self.shut_down(Shutdown::Both),
                1 => self.shut_down(Shutdown::Write),
                2 => self.shut_down(Shutdown::Read),
                3..=7 => self.read_file(input),
                8..=11 => self.pass_file(input),
                12 => self.truncate_file(input),
                _ => self.release_file(input),
            },
        }
        match kind >> 6 {
            0 | 1 => drop(self.run(true)),
            2 => drop(self.run(false)),
            _ => {}
        }
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.fs.driver.memory.write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn memory(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY_BYTES];
        let memory = &self.fs.driver.memory;
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        bytes
    }

    fn send(&mut self, bytes: &[u8]) {
        if self.outgoing.len() + bytes.len() <= MAX_OUTGOING_BYTES {
            self.outgoing.extend(bytes);
        }
    }

    fn reply(&mut self, input: &mut Input<'_>) {
        let [choice, error, pieces] = [(); 3].map(|()| input.byte());
        let length = usize::from(input.short()) * usize::from(pieces % 32);
        // Mostly one of the last requests; tags are easy to guess, too.
        let place = self.tags.len().checked_sub(1 + usize::from(choice));
        let tag = place.map_or_else(|| choice.into(), |place| self.tags[place]);
        let error = match error {
            0..128 => 0,
            255 => i32::MIN,
            _ => 128 - i32::from(error),
        };
        self.send(&reply(tag, error, &vec![OTHER_DATA; length]));
    }

    /// The server reads all that has arrived; `false` if nothing has.
    fn read_requests(&mut self) -> bool {
        let has_arrived = self.fs.server.read();
        while let Some((header, body)) = self.fs.server.request() {
            let last = self.tags.last().copied().unwrap_or(0);
            assert!(header.unique > last, "a tag is used again, or requests are mixed");
            self.tags.push(header.unique);
            let known = body.get(..header.known_bytes()).unwrap_or_default();
            self.files.note(header.unique, header.file_request(known));
        }
        has_arrived
    }

    fn shut_down(&self, how: Shutdown) {
        // It fails if the device has closed its end.
        let _ = self.fs.server.stream.shutdown(how);
    }

    fn reset(&mut self) {
        self.fs.reset();
        self.forget_chains();
        self.running = true;
        // This driver's rings are intact, because the device has none of the old chains any more.
        self.rings_are_intact = true;
    }

    fn forget_chains(&mut self) {
        self.chains.clear();
        self.unused = [QUEUE_SIZE.into(); QUEUE_COUNT];
        self.offered = [0; QUEUE_COUNT];
        self.used = [0; QUEUE_COUNT];
    }

    /// Both sides work until they wait for each other.
    fn exchange_all(&mut self) {
        loop {
            self.run(false);
            if !self.read_requests() || !self.rings_are_intact {
                break;
            }
        }
    }

    /// Another request is made, and then the server ends: all requests fail.
    fn end(mut self) {
        self.exchange_all();
        let outstanding: usize = self.chains.iter().map(|chain| chain.outstanding).sum();
        if !self.running || !self.rings_are_intact || outstanding >= QUEUE_SIZE.into() || self.unused[REQUESTS] < 4 {
            self.reset();
        }
        let was_connected = self.fs.backend.in_flight().is_some();
        let asked = self.fs.ask(LAST_UNIQUE, b"x", 8);
        self.chains.push(Offered {
            queue: REQUESTS,
            head: asked.head,
            work: 4,
            writable: vec![(usize::try_from(asked.reply).unwrap(), REPLY_HEADER_BYTES + 8)],
            outstanding: 1,
        });
        self.offered[REQUESTS] += 1;
        self.exchange_all();
        if !self.running || !self.rings_are_intact {
            return;
        }
        let is_connected = self.fs.backend.in_flight().is_some();
        assert!(
            !is_connected || self.fs.server.is_between_requests(),
            "half a request is sent"
        );
        let was_taken = self.fs.active.queues[REQUESTS].parsed == self.offered[REQUESTS];

        self.shut_down(Shutdown::Both);
        let returned = self.run(false);
        assert_eq!(self.fs.backend.in_flight(), None, "the end of the server is noticed");
        if !self.running || !self.rings_are_intact {
            return;
        }
        assert!(
            self.chains.iter().all(|chain| chain.outstanding == 0),
            "a request is kept"
        );
        self.check_failures(&returned);
        let error = self.fs.failure(&asked, LAST_UNIQUE);
        let expected: &[i32] = match (was_connected, is_connected) {
            (true, true) if was_taken => &[libc::EIO],
            // The server was lost while the request was offered.
            (true, false) => &[libc::EIO, libc::ENOTCONN],
            _ => &[libc::ENOTCONN],
        };
        assert!(expected.contains(&error), "{error} instead of {expected:?}");
    }
}
