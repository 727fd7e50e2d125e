//! The chains that the driver offers.

use super::super::super::virtio::driver::{INDIRECT, NEXT, WRITE};
use super::super::driver::request_header;
use super::super::message::REQUEST_HEADER_BYTES;
use super::input::Input;
use super::{Attack, BUFFERS, MEMORY_BYTES, Offered};

/// A descriptor: address, length, flags.
type Descriptor = (u64, u32, u16);

impl Attack {
    /// A request as Linux writes it, except that it may lie about its length, and that its parts may overlap.
    pub(super) fn request(&mut self, input: &mut Input<'_>) {
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
    pub(super) fn chain(&mut self, input: &mut Input<'_>) {
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

    pub(super) fn offer(&mut self, queue: usize, descriptors: &[Descriptor]) {
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

    pub(super) fn offer_again(&mut self, input: &mut Input<'_>) {
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
}
