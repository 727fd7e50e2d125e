//! Receive buffers that a device has taken from a queue before it has something to put into them, and keeps until it has.

use std::collections::VecDeque;

use super::GuestError;
use super::chain::Buffers;
use super::queue::VirtQueue;
use crate::memory::GuestMemory;

#[derive(Debug)]
struct Held {
    head: u16,
    /// Bytes that the device may write.
    length: usize,
}

/// Chains taken from one queue, filled in order.
#[derive(Debug)]
pub struct HeldChains {
    /// All in this memory, which therefore stays mapped.
    buffers: Buffers<'static>,
    chains: VecDeque<Held>,
    memory: GuestMemory,
}

// SAFETY: what is not Send is the addresses in `buffers`. They lie in the mapping that `memory` keeps, which any thread may use.
unsafe impl Send for HeldChains {}

impl HeldChains {
    /// None yet; all will be in `memory`.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            buffers: Buffers::default(),
            chains: VecDeque::new(),
            memory,
        }
    }

    /// Bytes that fit into what is held.
    #[must_use]
    pub fn room(&self) -> usize {
        self.buffers.remaining()
    }

    /// Number of chains.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// The next bytes to fill.
    #[must_use]
    pub fn buffers<'h>(&'h self) -> &'h Buffers<'h> {
        &self.buffers
    }

    /// Takes the next chain of the queue: the number of its descriptors and its length.
    pub fn take_from(&mut self, queue: &mut VirtQueue) -> Result<Option<(usize, usize)>, GuestError> {
        let Some(chain) = queue.pop(&self.memory)? else {
            return Ok(None);
        };
        let (head, descriptors, length) = (chain.head, chain.descriptors, chain.writable.remaining());
        self.buffers.append(chain.writable.keep());
        self.chains.push_back(Held { head, length });
        Ok(Some((descriptors, length)))
    }

    /// How many chains `bytes` reach into.
    #[must_use]
    pub fn count_for(&self, bytes: usize) -> usize {
        let mut left = bytes;
        let filled = self.chains.iter().take_while(|chain| {
            let reached = left > 0;
            left = left.saturating_sub(chain.length);
            reached
        });
        filled.count()
    }

    /// Returns the first chain, filled with at most `bytes`; how many of them are in it.
    pub fn give_back(&mut self, queue: &mut VirtQueue, bytes: usize) -> Result<usize, GuestError> {
        let Some(chain) = self.chains.pop_front() else {
            return Ok(0);
        };
        let written = bytes.min(chain.length);
        self.buffers.skip(chain.length);
        queue.add_used(&self.memory, chain.head, written)?;
        Ok(written)
    }
}
