//! Receive buffers that a device takes from a queue before it has data for them, and keeps until it has.

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
    /// All of them lie in `memory`, which therefore stays mapped.
    buffers: Buffers<'static>,
    chains: VecDeque<Held>,
    memory: GuestMemory,
}

// SAFETY: only the addresses in `buffers` are not Send. They lie in the mapping that `memory` keeps,
// and any thread may use it.
unsafe impl Send for HeldChains {}

impl HeldChains {
    /// Holds no chains yet; all will lie in `memory`.
    #[must_use]
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            buffers: Buffers::default(),
            chains: VecDeque::new(),
            memory,
        }
    }

    /// Bytes that fit into the held chains.
    #[must_use]
    pub fn room(&self) -> usize {
        self.buffers.remaining()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.chains.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty()
    }

    /// The next bytes to fill.
    #[must_use]
    pub fn buffers<'h>(&'h self) -> &'h Buffers<'h> {
        &self.buffers
    }

    /// Takes the next chain of the queue; returns its number of descriptors and its length.
    pub fn take_from(&mut self, queue: &mut VirtQueue) -> Result<Option<(usize, usize)>, GuestError> {
        let Some(chain) = queue.pop(&self.memory)? else {
            return Ok(None);
        };
        let (head, descriptors, length) = (chain.head, chain.descriptors, chain.writable.remaining());
        self.buffers.append(chain.writable.keep());
        self.chains.push_back(Held { head, length });
        Ok(Some((descriptors, length)))
    }

    /// How many chains `bytes` span.
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

    /// Returns the first chain to the driver, filled with at most `bytes`; returns how many of them it contains.
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
