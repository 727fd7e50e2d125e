//! Entry point for the fuzzer (`tests/fuzz`), which cannot reach the device without its thread: a driver and a file
//! server that do anything, and what must hold for the device between them.

use std::io::Write;
use std::net::Shutdown;

use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::epoll::EventSet;

use super::super::virtio::GuestError;
use super::super::virtio::driver::{Driver, FREE, INDIRECT, NEXT, WRITE};
use super::super::virtio::worker::Backend;
use super::device::{QUEUE_COUNT, QUEUE_SIZE};
use super::driver::{Fs, HIGH_PRIORITY, REQUESTS, reply, request_header};
use super::message::{REPLY_HEADER_BYTES, REQUEST_HEADER_BYTES, ReplyHeader};
use super::server::MAX_IN_FLIGHT;

/// Indirect tables, and the last request, are in front of the buffers, so no reply overwrites them.
const BUFFERS: u64 = FREE + 0x8000;
/// A buffer's address and length have 16 bits each; a request's header may be in front of it.
const MEMORY_BYTES: usize = 0x3_8100;
const MAX_STEPS: usize = 300;
/// Maximum number of descriptors and KiB that the device is given, so that a run does not take long.
const MAX_WORK: usize = 20_000;
/// Maximum number of turns that the device may need for one event.
const MAX_TURNS: usize = 1000;
/// How many turns it gets if the rings were overwritten: a ring that fills itself would need any number.
const OTHER_TURNS: usize = 4;
/// Maximum number of bytes that wait for the server to write them.
const MAX_OUTGOING_BYTES: usize = 4 << 20;
/// Bytes of a used ring; the device may write all of them.
const USED_RING_BYTES: usize = 6 + 8 * QUEUE_SIZE as usize;
/// The guest's name for its last request.
const LAST_UNIQUE: u64 = 0x1234_5678_9abc_def0;

/// A descriptor: address, length, flags.
type Descriptor = (u64, u32, u16);

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

/// The rest of the fuzzer's bytes. After their end, all are 0.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn queue(&mut self) -> usize {
        if self.byte().is_multiple_of(4) {
            HIGH_PRIORITY
        } else {
            REQUESTS
        }
    }
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
}

impl Attack {
    fn new() -> Self {
        Self {
            fs: Fs::with_memory(MEMORY_BYTES),
            running: true,
            rings_are_intact: true,
            chains: Vec::new(),
            unused: [QUEUE_SIZE.into(); QUEUE_COUNT],
            offered: [0; QUEUE_COUNT],
            used: [0; QUEUE_COUNT],
            work_left: MAX_WORK,
            tags: Vec::new(),
            outgoing: Vec::new(),
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
                _ => {}
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

    /// A request as Linux writes it, except that it may lie about its length, and that its parts may overlap.
    fn request(&mut self, input: &mut Input<'_>) {
        let queue = input.queue();
        let [opcode, pieces, lie] = [(); 3].map(|()| input.byte());
        let [at, length, reply_at, room] = [(); 4].map(|()| input.short());
        let (pieces, room_pieces) = (usize::from(pieces % 32), usize::from(pieces / 32));
        let stated = REQUEST_HEADER_BYTES + usize::from(length) * pieces + usize::from(lie);
        let (at, reply_at) = (BUFFERS + u64::from(at), BUFFERS + u64::from(reply_at));
        self.write(at, &request_header(stated, opcode.into(), u64::from(room)));
        let mut descriptors = vec![(at, 40, 0)];
        descriptors.resize(1 + pieces, (at + 40, length.into(), 0));
        descriptors.push((reply_at, 16, WRITE));
        descriptors.resize(2 + pieces + room_pieces, (reply_at + 16, room.into(), WRITE));
        self.offer(queue, &descriptors);
    }

    /// Any descriptors; many of them in an indirect table.
    fn chain(&mut self, input: &mut Input<'_>) {
        let queue = input.queue();
        let (kinds, repeat) = (input.byte() % 8 + 1, input.byte());
        let kinds: Vec<Descriptor> = (0..kinds).map(|_| self.descriptor(input)).collect();
        if repeat < 128 {
            return self.offer(queue, &kinds);
        }
        let count = kinds.len() * usize::from(repeat - 126);
        let bytes = count * 16;
        let table = self.fs.place(0);
        // Room for the last request is left.
        if table + bytes as u64 + 0x100 > BUFFERS {
            return;
        }
        self.fs.place(bytes);
        let descriptors: Vec<Descriptor> = kinds.iter().copied().cycle().take(count).collect();
        for (index, (address, length, flags)) in (0u64..).zip(&descriptors) {
            let more = if index + 1 < count as u64 { NEXT } else { 0 };
            let rest = u64::from(*length) | u64::from(flags | more) << 32 | (index + 1) << 48;
            let bytes = [address.to_le_bytes(), rest.to_le_bytes()].concat();
            self.write(table + index * 16, &bytes);
        }
        let length = u32::try_from(bytes).unwrap();
        self.offer_chain(queue, &[(table, length, INDIRECT)], &descriptors);
    }

    fn descriptor(&mut self, input: &mut Input<'_>) -> Descriptor {
        let (kind, at, length) = (input.byte(), u64::from(input.short()), u32::from(input.short()));
        let flags = u16::from(kind % 8);
        let (address, length) = match kind >> 4 {
            15 => (u64::MAX - at, length),
            14 => (BUFFERS + at, length << 16),
            13 => (at, length),
            _ => (BUFFERS + at, length),
        };
        // A descriptor that makes the device write a ring, or find tables in buffers.
        self.rings_are_intact &= flags & !WRITE == 0 && (flags == 0 || address >= BUFFERS);
        (address, length, flags)
    }

    fn offer(&mut self, queue: usize, descriptors: &[Descriptor]) {
        self.offer_chain(queue, descriptors, descriptors);
    }

    /// Offers a chain; `all` includes the descriptors of indirect tables.
    fn offer_chain(&mut self, queue: usize, descriptors: &[Descriptor], all: &[Descriptor]) {
        let readable = all.iter().filter(|(_, _, flags)| flags & WRITE == 0);
        let kib: usize = readable.map(|(_, length, _)| (length >> 10) as usize).sum();
        let work = all.len() + kib;
        if self.unused[queue] < descriptors.len() || self.work_left < work {
            return;
        }
        self.unused[queue] -= descriptors.len();
        let writable = all.iter().filter(|(_, _, flags)| flags & WRITE != 0);
        let writable = writable.filter_map(|(address, length, _)| {
            // The others make the chain invalid.
            let (start, length) = (usize::try_from(*address).ok()?, usize::try_from(*length).ok()?);
            (start.checked_add(length)? <= MEMORY_BYTES).then_some((start, length))
        });
        let chain = Offered {
            queue,
            work,
            writable: writable.collect(),
            head: self.fs.driver.chain(queue, descriptors),
            outstanding: 0,
        };
        self.chains.push(chain);
        self.make_available(self.chains.len() - 1, 1);
    }

    fn offer_again(&mut self, input: &mut Input<'_>) {
        let (chain, times) = (usize::from(input.byte()), usize::from(input.short() % 600));
        if !self.chains.is_empty() {
            self.make_available(self.chains.len() - 1 - chain % self.chains.len(), times);
        }
    }

    fn make_available(&mut self, index: usize, times: usize) {
        let chain = &mut self.chains[index];
        let times = times.min(self.work_left / chain.work);
        for _ in 0..times {
            self.fs.driver.offer_again(chain.queue, chain.head);
        }
        chain.outstanding += times;
        self.offered[chain.queue] += times;
        self.work_left -= times * chain.work;
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
        self.send(&reply(tag, error, &vec![0xee; length]));
    }

    /// The server reads all that has arrived; `false` if there was no whole request.
    fn read_requests(&mut self) -> bool {
        let before = self.tags.len();
        while let Some((header, _)) = self.fs.server.request() {
            let last = self.tags.last().copied().unwrap_or(0);
            assert!(header.unique > last, "a tag is used again, or requests are mixed");
            self.tags.push(header.unique);
        }
        self.tags.len() > before
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

    /// The device handles a notification, or an event of the socket, until it waits. Returns the chains that it
    /// returned, if they can be known.
    fn run(&mut self, notified: bool) -> Vec<Returned> {
        let before = self.memory();
        let result = self.events(notified);
        if self.rings_are_intact || !self.running {
            self.check_writes(&before);
        }
        assert!(self.fs.backend.in_flight().unwrap_or(0) <= MAX_IN_FLIGHT);
        let returned = if self.rings_are_intact && self.running {
            self.returned()
        } else {
            Vec::new()
        };
        if result.is_err() {
            self.fs.backend.reset(&self.fs.poll);
            self.forget_chains();
            self.running = false;
        }
        returned
    }

    fn events(&mut self, notified: bool) -> Result<(), GuestError> {
        let Fs {
            backend, active, poll, ..
        } = &mut self.fs;
        let events = EventSet::IN | EventSet::OUT;
        if !self.running {
            return backend.host_ready(0, events, None, poll);
        }
        if notified {
            backend.queue_ready(REQUESTS, active, poll)?;
        } else {
            backend.host_ready(0, events, Some(active), poll)?;
        }
        let turns = if self.rings_are_intact { MAX_TURNS } else { OTHER_TURNS };
        for _ in 0..turns {
            if !poll.takes_another_turn() {
                return Ok(());
            }
            backend.queue_ready(HIGH_PRIORITY, active, poll)?;
        }
        assert!(!self.rings_are_intact, "the work of an event ends");
        Ok(())
    }

    /// Checks that memory has changed only where the device may write.
    fn check_writes(&self, before: &[u8]) {
        let after = self.memory();
        if before == after {
            return;
        }
        let mut may_change = vec![false; MEMORY_BYTES];
        if self.running {
            for queue in 0..QUEUE_COUNT {
                let ring = usize::try_from(Driver::used_ring(queue)).unwrap();
                may_change[ring..ring + USED_RING_BYTES].fill(true);
            }
        }
        for chain in self.chains.iter().filter(|chain| chain.outstanding > 0) {
            for (start, length) in &chain.writable {
                may_change[*start..start + length].fill(true);
            }
        }
        let changes = before.iter().zip(&after).zip(&may_change);
        for (at, ((before, after), may_change)) in changes.enumerate() {
            assert!(before == after || *may_change, "the device has written at {at:#x}");
        }
    }

    /// Takes what the device has returned from the used rings.
    fn returned(&mut self) -> Vec<Returned> {
        let mut returned = Vec::new();
        for queue in 0..QUEUE_COUNT {
            let count = self.fs.driver.used(queue).wrapping_sub(self.used[queue]);
            if count > QUEUE_SIZE {
                // Only a driver that offers a chain several times can lose entries.
                self.rings_are_intact = false;
                return Vec::new();
            }
            for _ in 0..count {
                let (head, written) = self.fs.driver.used_entry(queue, self.used[queue]);
                self.used[queue] = self.used[queue].wrapping_add(1);
                let mut chains = self.chains.iter().enumerate();
                let found = chains.find(|(_, chain)| (chain.queue, chain.head) == (queue, head));
                let (index, chain) = found.expect("an offered chain");
                assert!(chain.outstanding > 0, "a chain is returned twice");
                let room: usize = chain.writable.iter().map(|(_, length)| length).sum();
                let written = usize::try_from(written).unwrap();
                assert!(
                    written == 0 || (REPLY_HEADER_BYTES..=room).contains(&written),
                    "{written} of {room} bytes are written"
                );
                self.chains[index].outstanding -= 1;
                returned.push(Returned { chain: index, written });
            }
        }
        returned
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

    /// Checks that these chains have an error number and nothing else. Those that overlap are not read.
    fn check_failures(&self, returned: &[Returned]) {
        let memory = self.memory();
        let headers = returned.iter().filter(|returned| returned.written > 0).map(|returned| {
            assert_eq!(
                returned.written, REPLY_HEADER_BYTES,
                "a reply of a server that has ended"
            );
            let writable = self.chains[returned.chain].writable.iter();
            let bytes = writable.flat_map(|(start, length)| *start..start + length);
            bytes.take(REPLY_HEADER_BYTES).collect::<Vec<_>>()
        });
        let headers: Vec<_> = headers.collect();
        let mut writers = vec![0; MEMORY_BYTES];
        headers.iter().flatten().for_each(|at| writers[*at] += 1);
        for header in headers {
            if header.iter().all(|at| writers[*at] == 1) {
                let bytes: Vec<u8> = header.iter().map(|at| memory[*at]).collect();
                let header = ReplyHeader::parse(bytes.try_into().unwrap());
                assert_eq!(header.length, REPLY_HEADER_BYTES);
                assert!([-libc::EIO, -libc::ENOTCONN].contains(&header.error), "{header:?}");
            }
        }
    }
}
