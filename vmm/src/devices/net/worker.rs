//! Moves frames between the queues and the TAP, straight from and to guest memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use vmm_sys_util::epoll::EventSet;

use super::super::virtio::GuestError;
use super::super::virtio::chain::Buffers;
use super::super::virtio::worker::{Active, Backend, Poll};
use super::device::{F_GUEST_CSUM, F_GUEST_TSO4, F_GUEST_TSO6, F_MRG_RXBUF, QUEUE_RX, QUEUE_TX};
use super::tap::{Tap, VNET_HEADER_BYTES};

const TOKEN_TAP: u32 = 0;
/// Where in the header the number of buffers is that a frame fills (section 5.1.6).
const NUM_BUFFERS_OFFSET: usize = 10;
/// Largest frame of a TAP with segmentation offload, with its header.
const LARGE_FRAME_BYTES: usize = VNET_HEADER_BYTES + 65_550;
/// Largest frame without: an MTU of 1500 with Ethernet header and VLAN tag. A longer one is cut, as on a wire it would be.
const SMALL_FRAME_BYTES: usize = VNET_HEADER_BYTES + 1518;
/// Frames moved before the other direction gets its turn.
const BURST: usize = 128;

/// The network device's thread.
#[derive(Debug)]
pub struct NetBackend {
    tap: Tap,
    /// The TAP may have frames: edge-triggered, so remembered here.
    tap_readable: bool,
    /// The TAP may take frames.
    tap_writable: bool,
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
        }
    }

    /// Takes buffers from the queue until the largest frame fits (or one, when frames may not be spread), lets the TAP fill
    /// them, returns those that it filled.
    fn receive_one(&mut self, active: &mut Active) -> Result<Progress, GuestError> {
        let memory = &active.memory;
        let Some(queue) = active.queues.get_mut(QUEUE_RX) else {
            return Ok(Progress::Done);
        };
        let large = active.features & (F_GUEST_TSO4 | F_GUEST_TSO6) != 0;
        let wanted = if large { LARGE_FRAME_BYTES } else { SMALL_FRAME_BYTES };
        let mut all = Buffers::default();
        let mut heads: Vec<(u16, usize)> = Vec::new();
        while all.remaining() < wanted {
            let Some(chain) = queue.pop(memory)? else { break };
            let length = chain.writable.remaining();
            if length < VNET_HEADER_BYTES {
                return Err(GuestError::Request("a receive buffer shorter than the header"));
            }
            all.append(chain.writable);
            heads.push((chain.head, length));
            if active.features & F_MRG_RXBUF == 0 {
                break;
            }
        }
        let give_back = |queue: &mut super::super::virtio::queue::VirtQueue, count: usize| {
            for _ in 0..count {
                queue.undo_pop();
            }
        };
        if heads.is_empty() || (all.remaining() < wanted && active.features & F_MRG_RXBUF != 0) {
            // Not enough room. The notification is asked for before the buffers are given back, so that it means new ones.
            let more_came = queue.enable_notification(memory)?;
            give_back(queue, heads.len());
            return Ok(if more_came { Progress::More } else { Progress::Done });
        }
        let frame = match all.fill_from(self.tap.file().as_fd()) {
            Ok(frame) => frame,
            Err(error) => {
                give_back(queue, heads.len());
                // Anything but "nothing there" means that the TAP is gone or down, which brings an event when it changes.
                self.tap_readable = error.kind() == io::ErrorKind::Interrupted;
                return Ok(if self.tap_readable {
                    Progress::More
                } else {
                    Progress::Done
                });
            }
        };
        let mut used = 0;
        let mut room = 0;
        while let Some((_, length)) = heads.get(used).filter(|_| room < frame) {
            room += length;
            used += 1;
        }
        all.skip(NUM_BUFFERS_OFFSET);
        all.write(&u16::try_from(used).unwrap_or(u16::MAX).to_le_bytes());
        let mut left = frame;
        for (head, length) in heads.iter().take(used) {
            queue.add_used(memory, *head, left.min(*length))?;
            left = left.saturating_sub(*length);
        }
        give_back(queue, heads.len() - used);
        Ok(Progress::More)
    }

    fn receive(&mut self, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let mut burst = 0;
        while self.tap_readable && self.receive_one(active)? == Progress::More {
            burst += 1;
            if burst == BURST {
                poll.run_again();
                break;
            }
        }
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
        let mut burst = 0;
        while self.tap_writable {
            burst += 1;
            if burst > BURST {
                poll.run_again();
                break;
            }
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
                    // A frame that the TAP does not want (interface down, bad header) is lost, as on a wire.
                    _ => {}
                }
            }
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
            eprintln!("microkube-vmm: {error}");
        }
        self.tap_readable = true;
        self.tap_writable = true;
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
}
