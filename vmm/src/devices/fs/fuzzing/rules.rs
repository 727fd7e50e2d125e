//! The device's work, and the rules that it must keep.

use vmm_sys_util::epoll::EventSet;

use super::super::super::virtio::GuestError;
use super::super::super::virtio::driver::Driver;
use super::super::super::virtio::worker::Backend;
use super::super::device::{QUEUE_COUNT, QUEUE_SIZE};
use super::super::driver::{Fs, HIGH_PRIORITY, REQUESTS};
use super::super::message::{REPLY_HEADER_BYTES, ReplyHeader};
use super::super::server::MAX_IN_FLIGHT;
use super::{Attack, MEMORY_BYTES, Returned};

/// Maximum number of turns that the device may need for one event.
const MAX_TURNS: usize = 1000;
/// How many turns it gets if the rings were overwritten: a ring that fills itself would need any number.
const OTHER_TURNS: usize = 4;
/// Bytes of memory that are compared at once.
const PART_BYTES: usize = 256;
/// Bytes of a used ring; the device may write all of them.
const USED_RING_BYTES: usize = 6 + 8 * QUEUE_SIZE as usize;

impl Attack {
    /// The device handles a notification, or an event of the socket, until it waits. Returns the chains that it
    /// returned, if they can be known.
    pub(super) fn run(&mut self, notified: bool) -> Vec<Returned> {
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
        // Most parts are equal, and soon compared.
        let parts = before.chunks(PART_BYTES).zip(after.chunks(PART_BYTES));
        for (part, _) in parts.enumerate().filter(|(_, (before, after))| before != after) {
            for at in (part * PART_BYTES..MEMORY_BYTES).take(PART_BYTES) {
                let is_right = before[at] == after[at] || may_change[at];
                assert!(is_right, "the device has written at {at:#x}");
            }
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

    /// Checks that these chains have an error number and nothing else. Those that overlap are not read.
    pub(super) fn check_failures(&self, returned: &[Returned]) {
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
