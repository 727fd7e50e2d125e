//! Moves frames directly between the TAP and guest memory.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};

use virtio_bindings::virtio_net::virtio_net_hdr_v1;
use vmm_sys_util::epoll::EventSet;

use super::super::virtio::GuestError;
use super::super::virtio::held::HeldChains;
use super::super::virtio::turn::Turn;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::device::{F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_MRG_RXBUF, QUEUE_RX, QUEUE_SIZE, QUEUE_TX};
use super::tap::{Tap, VNET_HEADER_BYTES};
use crate::report::report;

const TOKEN_TAP: u32 = 0;
/// Offset in the header of the number of buffers that a frame fills (section 5.1.6).
const NUM_BUFFERS_OFFSET: usize = offset_of!(virtio_net_hdr_v1, num_buffers);
/// Largest frame from a TAP with segmentation offload, including its header.
const LARGE_FRAME_BYTES: usize = VNET_HEADER_BYTES + 65_550;
/// Largest frame without it: an MTU of 1500 with Ethernet header and VLAN tag. A longer frame is truncated.
const SMALL_FRAME_BYTES: usize = VNET_HEADER_BYTES + 1518;

/// The network device's thread.
#[derive(Debug)]
pub struct NetBackend {
    tap: Tap,
    /// Whether the TAP may have frames. Remembered, because events are edge-triggered.
    tap_readable: bool,
    /// Whether the TAP may accept frames.
    tap_writable: bool,
    /// Buffers for the next frames. They are taken from the queue once, not for every read of the TAP: the
    /// length of a frame is known only after it has been read, so there must always be room for the largest.
    /// `None` while no driver runs.
    room: Option<HeldChains>,
}

/// Whether a round is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Done,
    More,
}

impl NetBackend {
    /// Serves `tap`.
    #[must_use]
    pub fn new(tap: Tap) -> Self {
        Self {
            tap,
            tap_readable: false,
            tap_writable: true,
            room: None,
        }
    }

    /// Takes buffers from the queue until the largest frame fits (or one buffer, if frames may not span several), lets
    /// the TAP fill them, and returns the filled ones to the driver.
    fn receive_one(&mut self, active: &mut Active, turn: &mut Turn<'_>) -> Result<Progress, GuestError> {
        let (Some(queue), Some(room)) = (active.queues.get_mut(QUEUE_RX), &mut self.room) else {
            return Ok(Progress::Done);
        };
        let has = |feature| active.features & feature != 0;
        let wanted = match (has(F_MRG_RXBUF), has(F_GUEST_TSO4 | F_GUEST_TSO6)) {
            (false, _) => 1,
            (true, false) => SMALL_FRAME_BYTES,
            (true, true) => LARGE_FRAME_BYTES,
        };
        while room.room() < wanted {
            if room.len() >= usize::from(QUEUE_SIZE) {
                return Ok(Progress::Done);
            }
            let Some((descriptors, length)) = room.take_from(queue)? else {
                let more_came = queue.enable_notification(&active.memory)?;
                return Ok(if more_came { Progress::More } else { Progress::Done });
            };
            if length < VNET_HEADER_BYTES {
                return Err(GuestError::Request("a receive buffer shorter than the header"));
            }
            turn.spend(descriptors, 0);
        }
        let frame = match room.buffers().fill_from(self.tap.file().as_fd()) {
            Ok(frame) => frame,
            Err(error) => {
                // Any error but "would block" means that the TAP is gone or down, and a change of that state causes an
                // event.
                self.tap_readable = error.kind() == io::ErrorKind::Interrupted;
                return Ok(if self.tap_readable {
                    Progress::More
                } else {
                    Progress::Done
                });
            }
        };
        let used = room.count_for(frame);
        room.buffers().write_at(
            NUM_BUFFERS_OFFSET,
            &u16::try_from(used).unwrap_or(u16::MAX).to_le_bytes(),
        );
        let mut left = frame;
        for _ in 0..used {
            left = left.saturating_sub(room.give_back(queue, left)?);
        }
        turn.spend(0, frame);
        Ok(Progress::More)
    }

    fn receive(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let mut turn = Turn::new(poll);
        while self.tap_readable && turn.may_continue() && self.receive_one(active, &mut turn)? == Progress::More {}
        match active.queues.get_mut(QUEUE_RX) {
            Some(queue) => queue.signal(&active.memory, &active.interrupt),
            None => Ok(()),
        }
    }

    fn transmit(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let memory = &active.memory;
        let Some(queue) = active.queues.get_mut(QUEUE_TX) else {
            return Ok(());
        };
        let mut turn = Turn::new(poll);
        while self.tap_writable && turn.may_continue() {
            queue.disable_notification(memory)?;
            let Some(chain) = queue.pop(memory)? else {
                if queue.enable_notification(memory)? {
                    continue;
                }
                break;
            };
            let length = chain.readable.remaining();
            if (VNET_HEADER_BYTES + 1..=LARGE_FRAME_BYTES).contains(&length) {
                match chain.readable.drain_to(self.tap.file().as_fd()) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        queue.undo_pop();
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.tap_writable = false;
                        queue.undo_pop();
                        break;
                    }
                    // A frame that the TAP rejects (interface down, bad header) is lost, as on a wire.
                    _ => {}
                }
            }
            turn.spend(chain.descriptors, length);
            queue.add_used(memory, chain.head, 0)?;
        }
        queue.signal(memory, &active.interrupt)
    }
}

impl Backend for NetBackend {
    fn start(&mut self, poll: &Poll) -> io::Result<()> {
        let events = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        poll.add(self.tap.file().as_raw_fd(), events, TOKEN_TAP)
    }

    fn activate(&mut self, active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        let has = |feature| active.features & feature != 0;
        if let Err(error) = self
            .tap
            .set_offloads(has(F_GUEST_CSUM), has(F_GUEST_TSO4), has(F_GUEST_TSO6))
        {
            report(format_args!("{error}"));
        }
        self.tap_readable = true;
        self.tap_writable = true;
        self.room = Some(HeldChains::new(active.memory.clone()));
        Ok(())
    }

    fn queue_ready(&mut self, index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        if index == QUEUE_RX {
            self.receive(active, poll)
        } else {
            self.transmit(active, poll)
        }
    }

    fn host_ready(
        &mut self,
        _token: u32,
        events: EventSet,
        active: Option<&mut Active>,
        poll: &Poll,
    ) -> Result<(), GuestError> {
        self.tap_readable |= events.contains(EventSet::IN);
        let writable_again = events.contains(EventSet::OUT) && !self.tap_writable;
        self.tap_writable |= events.contains(EventSet::OUT);
        let Some(active) = active else { return Ok(()) };
        if writable_again {
            self.transmit(active, poll)?;
        }
        self.receive(active, poll)
    }

    fn reset(&mut self, _poll: &Poll) {
        self.room = None;
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixDatagram;

    use vm_memory::{Bytes, GuestAddress};

    use super::super::super::virtio::driver::{Driver, FREE, WRITE};
    use super::*;

    const MERGED: u64 = F_MRG_RXBUF | F_GUEST_TSO4;

    /// A device with a driver, and the host's end of its TAP.
    struct Net {
        driver: Driver,
        active: Active,
        backend: NetBackend,
        poll: Poll,
        host: UnixDatagram,
        given: u16,
    }

    impl Net {
        /// A device with receive buffers of this length.
        fn new(features: u64, buffers: u16, length: u32) -> Self {
            let (host, tap) = UnixDatagram::pair().unwrap();
            let mut driver = Driver::new(4 << 20, 2, QUEUE_SIZE);
            for index in 0..buffers {
                driver.offer(QUEUE_RX, &[(Self::address(index), length, WRITE)]);
            }
            let mut backend = NetBackend::new(Tap::of_socket(File::from(OwnedFd::from(tap))));
            let mut active = driver.active(features);
            let poll = Poll::new().unwrap();
            backend.activate(&mut active, &poll).unwrap();
            Self {
                driver,
                active,
                backend,
                poll,
                host,
                given: 0,
            }
        }

        fn address(index: u16) -> u64 {
            FREE + u64::from(index) * 0x2000
        }

        fn frame(&self, payload: usize, fill: u8) {
            let frame = [vec![0; VNET_HEADER_BYTES], vec![fill; payload]].concat();
            assert_eq!(self.host.send(&frame).unwrap(), frame.len());
        }

        fn tap_readable(&mut self) {
            self.backend
                .host_ready(TOKEN_TAP, EventSet::IN, Some(&mut self.active), &self.poll)
                .unwrap();
        }

        fn parsed(&self) -> usize {
            self.active.queues[QUEUE_RX].parsed
        }

        /// The next received frame without its header. Its buffers go back to the device.
        fn received(&mut self) -> Vec<u8> {
            let (first, _) = self.driver.used_entry(QUEUE_RX, self.given);
            let count = GuestAddress(Self::address(first) + 10);
            let count: u16 = self.driver.memory.read_obj(count).unwrap();
            let mut all = Vec::new();
            for _ in 0..count {
                let (head, written) = self.driver.used_entry(QUEUE_RX, self.given);
                let mut bytes = vec![0; usize::try_from(written).unwrap()];
                let address = GuestAddress(Self::address(head));
                self.driver.memory.read_slice(&mut bytes, address).unwrap();
                all.extend(bytes);
                self.driver.offer_again(QUEUE_RX, head);
                self.given = self.given.wrapping_add(1);
            }
            all.split_off(VNET_HEADER_BYTES)
        }
    }

    #[test]
    fn a_receive_buffer_is_parsed_once_across_tap_polls() {
        let mut net = Net::new(MERGED, QUEUE_SIZE, 1536);
        net.tap_readable();
        let for_the_largest = LARGE_FRAME_BYTES.div_ceil(1536);
        assert_eq!(net.parsed(), for_the_largest);
        for number in 1..=1000 {
            net.frame(54, 7);
            net.tap_readable();
            assert_eq!(net.received(), [7; 54]);
            assert_eq!(net.parsed(), for_the_largest + number);
        }
    }

    #[test]
    fn too_small_buffers_are_not_reparsed_for_each_frame() {
        let mut net = Net::new(MERGED, QUEUE_SIZE, 12);
        for _ in 0..8 {
            net.frame(54, 7);
            net.tap_readable();
        }
        assert_eq!((net.parsed(), net.driver.used(QUEUE_RX)), (usize::from(QUEUE_SIZE), 0));
    }

    #[test]
    fn consecutive_frames_each_fill_the_buffers_they_need() {
        let mut net = Net::new(MERGED, QUEUE_SIZE, 1536);
        let sizes = [54, 1524, 1525, 30_000, 1, 65_000, 3060];
        for (fill, size) in (1..).zip(sizes) {
            net.frame(size, fill);
            net.tap_readable();
            assert_eq!(net.received(), vec![fill; size]);
        }
    }

    #[test]
    fn without_merged_buffers_each_frame_uses_one_buffer() {
        let mut net = Net::new(0, 4, 2048);
        for fill in 1..9 {
            net.frame(1500, fill);
            net.tap_readable();
            assert_eq!(net.received(), vec![fill; 1500]);
            // The device holds one buffer for the next frame.
            assert_eq!(net.parsed(), usize::from(fill) + 1);
        }
    }

    #[test]
    fn a_reset_drops_held_buffers() {
        let mut net = Net::new(MERGED, QUEUE_SIZE, 1536);
        net.tap_readable();
        net.backend.reset(&net.poll);
        net.active = net.driver.active(MERGED);
        net.backend.activate(&mut net.active, &net.poll).unwrap();
        net.frame(54, 9);
        net.tap_readable();
        assert_eq!(net.received(), [9; 54]);
    }

    #[test]
    fn a_flood_of_frames_does_not_starve_the_other_direction() {
        let mut net = Net::new(MERGED, QUEUE_SIZE, 1536);
        let head = net.driver.chain(QUEUE_TX, &[(FREE, 8, 0)]);
        for _ in 0..QUEUE_SIZE {
            net.driver.offer_again(QUEUE_TX, head);
        }
        net.backend.queue_ready(QUEUE_TX, &mut net.active, &net.poll).unwrap();
        assert_eq!(net.driver.used(QUEUE_TX), QUEUE_SIZE);
        assert!(net.poll.takes_another_turn());
    }
}
