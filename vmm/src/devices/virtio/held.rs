//! Chains that a device takes from a queue and keeps: receive buffers until it has data for them ([`HeldChains`]),
//! requests until it has their answers ([`HeldRequest`]).

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

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

/// A request whose answer comes later, and not necessarily in order.
#[derive(Debug)]
pub struct HeldRequest {
    head: u16,
    readable: Buffers<'static>,
    /// The first writable bytes, for the header of the answer. It is written last, when it is certain.
    header: Buffers<'static>,
    /// The writable bytes after the header.
    body: Buffers<'static>,
    /// All of the buffers lie in `memory`, which therefore stays mapped.
    memory: Arc<GuestMemory>,
}

// SAFETY: as for `HeldChains`.
unsafe impl Send for HeldRequest {}

impl HeldRequest {
    /// Takes the next chain of the queue, whose answers begin with a header of `header_bytes`; also returns its number
    /// of descriptors.
    pub fn take_from(
        queue: &mut VirtQueue,
        memory: &Arc<GuestMemory>,
        header_bytes: usize,
    ) -> Result<Option<(Self, usize)>, GuestError> {
        let Some(chain) = queue.pop(memory)? else {
            return Ok(None);
        };
        let mut body = chain.writable.keep();
        let request = Self {
            head: chain.head,
            readable: chain.readable.keep(),
            header: body.split_front(header_bytes),
            body,
            memory: Arc::clone(memory),
        };
        Ok(Some((request, chain.descriptors)))
    }

    /// Number of readable bytes that are left.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        self.readable.remaining()
    }

    /// Copies readable bytes and consumes them; returns their number.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        self.readable.read(out)
    }

    /// Writes `prefix` and then the readable bytes to a socket; consumes what the socket accepts of the latter, and
    /// returns the number of all bytes that it accepted.
    pub fn send_after(&mut self, prefix: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
        let sent = self.readable.drain_to_socket_after(prefix, socket)?;
        self.readable.skip(sent.saturating_sub(prefix.len()));
        Ok(sent)
    }

    /// Number of writable bytes of the header.
    #[must_use]
    pub fn header_room(&self) -> usize {
        self.header.remaining()
    }

    /// Number of writable bytes after the header, or of those that are left.
    #[must_use]
    pub fn body_room(&self) -> usize {
        self.body.remaining()
    }

    /// Drops everything after the next `len` bytes of the body.
    pub fn truncate_body(&mut self, len: usize) {
        self.body.truncate(len);
    }

    /// Fills the body from a stream and consumes what was filled; returns the number of bytes.
    pub fn fill_body(&mut self, stream: BorrowedFd<'_>) -> io::Result<usize> {
        let filled = self.body.fill_from(stream)?;
        self.body.skip(filled);
        Ok(filled)
    }

    /// Fills at most `length` bytes of the body from a file at `offset` without consuming; returns their number.
    pub fn read_body_at(
        &self,
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        length: usize,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        if self.body.remaining() <= length {
            return self.body.fill_from_file_with(file, offset, flags);
        }
        let mut part = self.body.clone();
        part.truncate(length);
        part.fill_from_file_with(file, offset, flags)
    }

    /// Returns the request to the driver with this header, after which `body_bytes` were filled.
    pub fn answer(mut self, queue: &mut VirtQueue, header: &[u8], body_bytes: usize) -> Result<(), GuestError> {
        let written = self.header.write(header);
        queue.add_used(&self.memory, self.head, written.saturating_add(body_bytes))
    }

    /// Returns the request to the driver without an answer.
    pub fn give_back(self, queue: &mut VirtQueue) -> Result<(), GuestError> {
        queue.add_used(&self.memory, self.head, 0)
    }
}
