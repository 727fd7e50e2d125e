//! Limits how much a device does before its thread handles other events. A driver can fill a ring faster than a device
//! empties it, and a ring can even fill itself, through requests whose answers are written into it.

use super::worker::Poll;

/// Maximum number of chains of a turn: the size of the largest queue here, so that one turn serves everything that an
/// honest driver has queued.
pub const MAX_CHAINS: usize = 256;
/// Maximum number of descriptors of a turn; a single chain may exceed it.
pub const MAX_DESCRIPTORS: usize = 4096;
/// Maximum number of bytes moved in a turn; a single chain may exceed it.
pub const MAX_BYTES: usize = 8 << 20;

/// The remaining budget of a device's turn with one queue.
#[derive(Debug)]
pub struct Turn<'p> {
    poll: &'p Poll,
    chains: usize,
    descriptors: usize,
    bytes: usize,
}

impl<'p> Turn<'p> {
    /// Starts a turn of the device that `poll` belongs to.
    #[must_use]
    pub fn new(poll: &'p Poll) -> Self {
        Self {
            poll,
            chains: MAX_CHAINS,
            descriptors: MAX_DESCRIPTORS,
            bytes: MAX_BYTES,
        }
    }

    /// Whether the device may take another chain from its queue. `false` ends the turn: all queues of the device are
    /// reported again, after commands of the transport and other events.
    pub fn may_continue(&mut self) -> bool {
        let over = self.descriptors == 0 || self.bytes == 0 || self.poll.command_waits();
        let Some(chains) = self.chains.checked_sub(1).filter(|_| !over) else {
            self.poll.run_again();
            return false;
        };
        self.chains = chains;
        true
    }

    /// Accounts for a chain with this many descriptors and bytes moved.
    pub fn spend(&mut self, descriptors: usize, bytes: usize) {
        self.descriptors = self.descriptors.saturating_sub(descriptors);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many chains of this kind fit into a turn.
    fn chains(descriptors: usize, bytes: usize) -> usize {
        let poll = Poll::new().unwrap();
        let mut turn = Turn::new(&poll);
        let mut count = 0;
        while turn.may_continue() {
            turn.spend(descriptors, bytes);
            count += 1;
        }
        assert!(poll.takes_another_turn());
        count
    }

    #[test]
    fn a_turn_is_limited_in_chains_descriptors_and_bytes() {
        assert_eq!(chains(1, 1), MAX_CHAINS);
        assert_eq!(chains(0, 0), MAX_CHAINS);
        assert_eq!(chains(1024, 0), 4);
        assert_eq!(chains(1, MAX_BYTES / 2), 2);
        assert_eq!(chains(1, usize::MAX), 1);
    }

    #[test]
    fn a_transport_command_ends_the_turn() {
        let poll = Poll::new().unwrap();
        let mut turn = Turn::new(&poll);
        assert!(turn.may_continue());
        poll.set_command_waits();
        assert!(!turn.may_continue());
        assert!(poll.takes_another_turn());
    }
}
