//! Descriptor chains, checked and translated into host buffers.
//!
//! This is the only place where addresses from the guest become pointers.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::{ByteValued, GuestMemoryBackend};

use super::GuestError;
use crate::memory::GuestMemory;

/// Maximum number of descriptors of a chain. Section 2.7.5.3.1 limits a chain to the queue's size, which is at most 256
/// here.
const MAX_DESCRIPTORS: usize = 1024;

/// Maximum number of buffers of one system call (`UIO_MAXIOV`).
const MAX_IOVECS: usize = 1024;

/// Buffers in guest memory, consumed from the front.
#[derive(Debug, Clone, Default)]
pub struct Buffers<'m> {
    iovecs: Vec<libc::iovec>,
    /// How many `iovecs` are consumed.
    first: usize,
    remaining: usize,
    memory: PhantomData<&'m GuestMemory>,
}

impl<'m> Buffers<'m> {
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.remaining
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remaining == 0
    }

    /// Appends the guest memory at `address`.
    pub fn push(
        &mut self,
        memory: &'m GuestMemory,
        address: vm_memory::GuestAddress,
        len: usize,
    ) -> Result<(), GuestError> {
        let total = self
            .remaining
            .checked_add(len)
            .ok_or(GuestError::Chain("longer than the address space"))?;
        for slice in GuestMemoryBackend::get_slices(memory, address, len) {
            let slice = slice.map_err(GuestError::Memory)?;
            if self.iovecs.len() >= 2 * MAX_DESCRIPTORS {
                return Err(GuestError::Chain("too many buffers"));
            }
            let guard = slice.ptr_guard_mut();
            self.iovecs.push(libc::iovec {
                iov_base: guard.as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
        self.remaining = total;
        Ok(())
    }

    /// Extends the lifetime. The caller must keep the guest memory in which the buffers lie ([`super::held`]).
    pub(super) fn keep(self) -> Buffers<'static> {
        Buffers {
            iovecs: self.iovecs,
            first: self.first,
            remaining: self.remaining,
            memory: PhantomData,
        }
    }

    pub fn append(&mut self, other: Buffers<'m>) {
        // Remove the consumed entries once that is worth moving the rest.
        if self.first > self.iovecs.len() / 2 {
            self.iovecs.drain(..self.first);
            self.first = 0;
        }
        self.remaining = self.remaining.saturating_add(other.remaining);
        self.iovecs.extend(other.iovecs.into_iter().skip(other.first));
    }

    /// Drops everything after the next `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        if len >= self.remaining {
            return;
        }
        let mut left = len;
        let mut keep = self.first;
        for iovec in self.iovecs.iter_mut().skip(self.first) {
            if left == 0 {
                break;
            }
            iovec.iov_len = iovec.iov_len.min(left);
            left -= iovec.iov_len;
            keep += 1;
        }
        self.iovecs.truncate(keep);
        self.remaining = len;
    }

    /// Splits off the last byte as separate buffers; `None` if nothing is left.
    pub fn split_last_byte(&mut self) -> Option<Buffers<'m>> {
        while self.iovecs.len() > self.first && self.iovecs.last().is_some_and(|iovec| iovec.iov_len == 0) {
            self.iovecs.pop();
        }
        let iovec = self.iovecs.get_mut(self.first..)?.last_mut()?;
        iovec.iov_len -= 1;
        // SAFETY: the buffer had at least one byte, so this points to its last one.
        let iov_base = unsafe { iovec.iov_base.byte_add(iovec.iov_len) };
        self.remaining -= 1;
        Some(Buffers {
            iovecs: vec![libc::iovec { iov_base, iov_len: 1 }],
            first: 0,
            remaining: 1,
            memory: PhantomData,
        })
    }

    /// Splits off the first `len` bytes, or everything that is left if that is less, as separate buffers.
    pub fn split_front(&mut self, len: usize) -> Buffers<'m> {
        let remaining = len.min(self.remaining);
        let mut left = remaining;
        let mut iovecs = Vec::new();
        for iovec in self.iovecs.iter().skip(self.first) {
            if left == 0 {
                break;
            }
            let iov_len = iovec.iov_len.min(left);
            iovecs.push(libc::iovec { iov_len, ..*iovec });
            left -= iov_len;
        }
        self.skip(remaining);
        Buffers {
            iovecs,
            first: 0,
            remaining,
            memory: PhantomData,
        }
    }

    /// Consumes `len` bytes, or everything that is left if that is less.
    pub fn skip(&mut self, len: usize) {
        let mut left = len.min(self.remaining);
        self.remaining -= left;
        while let Some(iovec) = self.iovecs.get_mut(self.first) {
            if left < iovec.iov_len {
                // SAFETY: `left` is less than the buffer's length, so the pointer stays inside it.
                iovec.iov_base = unsafe { iovec.iov_base.byte_add(left) };
                iovec.iov_len -= left;
                return;
            }
            left -= iovec.iov_len;
            self.first += 1;
        }
    }

    /// The remaining buffers, up to the limit of one system call.
    fn as_iovecs(&self) -> &[libc::iovec] {
        // `first` never exceeds the length.
        let rest = &self.iovecs[self.first..];
        rest.get(..MAX_IOVECS).unwrap_or(rest)
    }

    /// Copies from guest memory and consumes; returns the number of bytes copied.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let mut done = 0;
        for iovec in self.iovecs.iter().skip(self.first) {
            let count = iovec.iov_len.min(out.len() - done);
            let Some(target) = out.get_mut(done..done + count) else {
                break;
            };
            // SAFETY: the buffer lies in guest memory, mapped for 'm, and has at least `count` bytes; the guest may change
            // it meanwhile, but the copy is of bytes, for which any value is valid. `target` is ours and cannot overlap.
            unsafe { std::ptr::copy_nonoverlapping(iovec.iov_base.cast::<u8>(), target.as_mut_ptr(), count) };
            done += count;
            if done == out.len() {
                break;
            }
        }
        self.skip(done);
        done
    }

    /// Copies into guest memory and consumes; returns the number of bytes copied.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        for iovec in self.iovecs.iter().skip(self.first) {
            let count = iovec.iov_len.min(bytes.len() - done);
            let Some(source) = bytes.get(done..done + count) else {
                break;
            };
            // SAFETY: as in `read`, the other way round.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), iovec.iov_base.cast::<u8>(), count) };
            done += count;
            if done == bytes.len() {
                break;
            }
        }
        self.skip(done);
        done
    }

    /// Copies into guest memory `offset` bytes from the front, without consuming; returns the number of bytes copied.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> usize {
        let mut done = 0;
        let mut before = offset;
        for iovec in self.iovecs.iter().skip(self.first) {
            let start = before.min(iovec.iov_len);
            before -= start;
            let count = (iovec.iov_len - start).min(bytes.len() - done);
            let Some(source) = bytes.get(done..done + count).filter(|source| !source.is_empty()) else {
                continue;
            };
            // SAFETY: as in `read`, the other way round, `start` bytes into a buffer that has `start + count`.
            unsafe { std::ptr::copy_nonoverlapping(source.as_ptr(), iovec.iov_base.cast::<u8>().add(start), count) };
            done += count;
            if done == bytes.len() {
                break;
            }
        }
        done
    }

    /// Reads an object from the front and consumes it.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, GuestError> {
        let mut object = T::default();
        let bytes = object.as_mut_slice();
        let wanted = bytes.len();
        if self.read(bytes) == wanted {
            Ok(object)
        } else {
            Err(GuestError::Chain("shorter than its header"))
        }
    }

    /// `preadv`: fills from the file at `offset` without consuming; returns the number of bytes.
    pub fn fill_from_file_at(&self, file: BorrowedFd<'_>, offset: libc::off_t) -> io::Result<usize> {
        let iovecs = self.as_iovecs();
        // SAFETY: every iovec lies in guest memory, mapped for 'm and writable; the count is that of the slice.
        result(unsafe { libc::preadv(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs), offset) })
    }

    /// `preadv2`: as [`Self::fill_from_file_at`], with flags (`RWF_*`).
    pub fn fill_from_file_with(
        &self,
        file: BorrowedFd<'_>,
        offset: libc::off_t,
        flags: libc::c_int,
    ) -> io::Result<usize> {
        let iovecs = self.as_iovecs();
        // SAFETY: as above.
        result(unsafe { libc::preadv2(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs), offset, flags) })
    }

    /// `pwritev`: writes to the file at `offset` without consuming; returns the number of bytes.
    pub fn drain_to_file_at(&self, file: BorrowedFd<'_>, offset: libc::off_t) -> io::Result<usize> {
        let iovecs = self.as_iovecs();
        // SAFETY: as for `fill_from_file_at`, for reading.
        result(unsafe { libc::pwritev(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs), offset) })
    }

    /// `readv`: fills from a stream, TAP or socket without consuming; returns the number of bytes.
    pub fn fill_from(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let iovecs = self.as_iovecs();
        // SAFETY: as for `fill_from_file_at`.
        result(unsafe { libc::readv(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs)) })
    }

    /// `writev`: writes to a TAP without consuming; returns the number of bytes.
    pub fn drain_to(&self, file: BorrowedFd<'_>) -> io::Result<usize> {
        let iovecs = self.as_iovecs();
        // SAFETY: as for `drain_to_file_at`.
        result(unsafe { libc::writev(file.as_raw_fd(), iovecs.as_ptr(), count(iovecs)) })
    }

    /// `sendmsg` without SIGPIPE: writes to a socket without consuming; returns the number of bytes.
    pub fn drain_to_socket(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: every iovec lies in guest memory, mapped for 'm.
        unsafe { send(socket, self.as_iovecs()) }
    }

    /// As [`Self::drain_to_socket`], but writes `prefix` first, in the same system call; its bytes count as well.
    pub fn drain_to_socket_after(&self, prefix: &[u8], socket: BorrowedFd<'_>) -> io::Result<usize> {
        if prefix.is_empty() {
            return self.drain_to_socket(socket);
        }
        let mut iovecs = vec![libc::iovec {
            iov_base: prefix.as_ptr().cast_mut().cast(),
            iov_len: prefix.len(),
        }];
        iovecs.extend(self.as_iovecs().iter().take(MAX_IOVECS - 1));
        // SAFETY: the first iovec is a slice that lives through the call, the others lie in guest memory, mapped for
        // 'm.
        unsafe { send(socket, &iovecs) }
    }

    /// `getrandom`: fills the next buffer with random bytes without consuming; returns the number of bytes.
    pub fn fill_with_random(&self) -> io::Result<usize> {
        let Some(iovec) = self.as_iovecs().iter().find(|iovec| iovec.iov_len > 0) else {
            return Ok(0);
        };
        // SAFETY: as for `fill_from_file_at`.
        result(unsafe { libc::getrandom(iovec.iov_base, iovec.iov_len, 0) })
    }
}

/// Writes buffers to a socket without blocking and without SIGPIPE.
///
/// # Safety
///
/// The iovecs must be valid for reading.
unsafe fn send(socket: BorrowedFd<'_>, iovecs: &[libc::iovec]) -> io::Result<usize> {
    // SAFETY: zeros are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = iovecs.as_ptr().cast_mut();
    // The type differs between C libraries; their number is bounded (`MAX_IOVECS`).
    message.msg_iovlen = iovecs.len() as _;
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the iovecs are valid, and sendmsg does not change them.
    result(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) })
}

fn count(iovecs: &[libc::iovec]) -> libc::c_int {
    libc::c_int::try_from(iovecs.len()).unwrap_or(libc::c_int::MAX)
}

fn result(returned: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// A request of the driver: buffers for the device to read, then buffers for its answer.
#[derive(Debug)]
pub struct Chain<'m> {
    /// Identifies the chain in the used ring.
    pub head: u16,
    /// Number of descriptors, empty ones included.
    pub descriptors: usize,
    /// Buffers for the device to read.
    pub readable: Buffers<'m>,
    /// Buffers for the device to write.
    pub writable: Buffers<'m>,
}

impl<'m> Chain<'m> {
    /// Checks and translates a chain: it must end properly, device-writable buffers must follow all others (section
    /// 2.7.4.2), and all must lie in RAM.
    pub fn parse(
        memory: &'m GuestMemory,
        mut descriptors: virtio_queue::DescriptorChain<&'m GuestMemory>,
    ) -> Result<Self, GuestError> {
        let head = descriptors.head_index();
        let mut chain = Self {
            head,
            descriptors: 0,
            readable: Buffers::default(),
            writable: Buffers::default(),
        };
        let mut ended = false;
        for descriptor in &mut descriptors {
            chain.descriptors += 1;
            if chain.descriptors > MAX_DESCRIPTORS {
                return Err(GuestError::Chain("too many descriptors"));
            }
            ended = !descriptor.has_next();
            let len = usize::try_from(descriptor.len()).map_err(|_| GuestError::Chain("buffer too long"))?;
            if descriptor.is_write_only() {
                chain.writable.push(memory, descriptor.addr(), len)?;
            } else if chain.writable.iovecs.is_empty() {
                chain.readable.push(memory, descriptor.addr(), len)?;
            } else {
                return Err(GuestError::Chain("a readable buffer follows a writable one"));
            }
        }
        // The iterator also ends at anything that it cannot follow.
        if ended {
            Ok(chain)
        } else {
            Err(GuestError::Chain("no valid end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use virtio_queue::desc::{RawDescriptor, split::Descriptor};
    use virtio_queue::mock::MockSplitQueue;
    use virtio_queue::{Queue, QueueT};
    use vm_memory::{Bytes, GuestAddress};

    use super::super::driver::{INDIRECT, NEXT, WRITE};
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x2_0000), (GuestAddress(0x2_0000), 0x1_0000)]).unwrap()
    }

    fn chain_of<'m>(memory: &'m GuestMemory, descriptors: &[(u64, u32, u16, u16)]) -> Result<Chain<'m>, GuestError> {
        let mock = MockSplitQueue::create(memory, GuestAddress(0), 16);
        for (index, (address, len, flags, next)) in descriptors.iter().enumerate() {
            let descriptor = RawDescriptor::from(Descriptor::new(*address, *len, *flags, *next));
            mock.desc_table()
                .store(u16::try_from(index).unwrap(), descriptor)
                .unwrap();
        }
        mock.avail().ring().ref_at(0).unwrap().store(0u16);
        mock.avail().idx().store(1u16);
        let mut queue: Queue = mock.create_queue().unwrap();
        Chain::parse(memory, queue.pop_descriptor_chain(memory).unwrap())
    }

    #[test]
    fn a_chain_is_split_into_readable_and_writable_parts() {
        let memory = memory();
        memory.write_slice(b"hello world", GuestAddress(0x8000)).unwrap();
        let descriptors = [(0x8000, 5, NEXT, 1), (0x8005, 6, NEXT, 2), (0x9000, 16, WRITE, 0)];
        let mut chain = chain_of(&memory, &descriptors).unwrap();
        let mut text = [0; 11];
        assert_eq!(chain.readable.read(&mut text), 11);
        assert_eq!(&text, b"hello world");
        assert_eq!(chain.readable.read(&mut text), 0);
        assert_eq!(chain.writable.write(b"0123456789abcdefgh"), 16);
        let written: [u8; 17] = memory.read_obj(GuestAddress(0x9000)).unwrap();
        assert_eq!(&written, b"0123456789abcdef\0");
    }

    #[test]
    fn a_buffer_may_cross_two_regions() {
        let memory = memory();
        let mut chain = chain_of(&memory, &[(0x1_fffe, 4, WRITE, 0)]).unwrap();
        assert_eq!(chain.writable.write(b"abcd"), 4);
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x1_fffe)).unwrap(), *b"abcd");
    }

    #[test]
    fn malformed_chains_are_refused() {
        let memory = memory();
        for descriptors in [
            vec![(0x8000, 8, WRITE | NEXT, 1), (0x9000, 8, 0, 0)], // readable after writable
            vec![(0x8000, 8, NEXT, 0)],                            // a loop
            vec![(0x8000, 8, NEXT, 99)],                           // next out of the table
            vec![(0x2_fff8, 9, 0, 0)],                             // beyond RAM
            vec![(u64::MAX - 4, 8, 0, 0)],                         // wraps around
            vec![(0x8000, 8, INDIRECT, 0)],                        // half a descriptor
            vec![(0x8000, u32::MAX, NEXT, 1), (0x8000, 8, 0, 0)],  // 4 GiB
        ] {
            assert!(chain_of(&memory, &descriptors).is_err(), "{descriptors:?}");
        }
    }

    #[test]
    fn truncating_and_skipping_count_bytes_across_buffers() {
        let memory = memory();
        let descriptors = [
            (0x8000, 4, NEXT | WRITE, 1),
            (0x8100, 4, NEXT | WRITE, 2),
            (0x8200, 4, WRITE, 0),
        ];
        let mut chain = chain_of(&memory, &descriptors).unwrap();
        chain.writable.truncate(9);
        chain.writable.skip(5);
        assert_eq!(chain.writable.remaining(), 4);
        assert_eq!(chain.writable.write(b"wxyz!"), 4);
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x8100)).unwrap(), *b"\0wxy");
        assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x8200)).unwrap(), *b"z\0");
    }

    #[test]
    fn the_front_is_split_off_across_buffers() {
        let memory = memory();
        memory.write_slice(b"0123456789", GuestAddress(0x8000)).unwrap();
        let chain = || {
            chain_of(
                &memory,
                &[(0x8000, 4, NEXT, 1), (0x8004, 0, NEXT, 2), (0x8004, 6, 0, 0)],
            )
            .unwrap()
        };
        for len in 0..=12 {
            let mut rest = chain().readable;
            rest.skip(1);
            let mut front = rest.split_front(len);
            let (mut before, mut after) = ([0; 10], [0; 10]);
            let (before_len, after_len) = (front.read(&mut before), rest.read(&mut after));
            assert_eq!((before_len, after_len), (len.min(9), 9 - len.min(9)));
            assert_eq!([&before[..before_len], &after[..after_len]].concat(), b"123456789");
        }
    }

    #[test]
    fn a_prefix_and_the_buffers_are_sent_in_one_call() {
        use std::io::Read;
        use std::os::fd::AsFd;
        let memory = memory();
        memory.write_slice(b"payload", GuestAddress(0x8000)).unwrap();
        let chain = chain_of(&memory, &[(0x8000, 4, NEXT, 1), (0x8004, 3, 0, 0)]).unwrap();
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let sent = [&b"header "[..], b""].map(|prefix| chain.readable.drain_to_socket_after(prefix, ours.as_fd()));
        assert_eq!(sent.map(Result::unwrap), [14, 7]);
        drop(ours);
        let mut all = String::new();
        theirs.read_to_string(&mut all).unwrap();
        assert_eq!(all, "header payloadpayload");
    }

    #[test]
    fn bytes_are_written_at_an_offset_across_buffers_without_consuming() {
        let memory = memory();
        let chain = chain_of(&memory, &[(0x8000, 11, NEXT | WRITE, 1), (0x8100, 4, WRITE, 0)]).unwrap();
        assert_eq!(chain.writable.write_at(10, b"ab"), 2);
        assert_eq!(chain.writable.remaining(), 15);
        assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x800a)).unwrap(), *b"a\0");
        assert_eq!(memory.read_obj::<[u8; 2]>(GuestAddress(0x8100)).unwrap(), *b"b\0");
        assert_eq!(chain.writable.write_at(14, b"cd"), 1);
        assert_eq!(chain.writable.write_at(15, b"e"), 0);
    }

    proptest! {
        #[test]
        fn no_descriptor_table_makes_parsing_panic_or_leave_guest_memory(
            descriptors in proptest::collection::vec((0u64..0x4_0000, 0u32..0x2_0000, 0u16..8, 0u16..20), 1..16),
        ) {
            let memory = memory();
            if let Ok(mut chain) = chain_of(&memory, &descriptors) {
                let mut copied = vec![0; chain.readable.remaining()];
                prop_assert_eq!(chain.readable.read(&mut copied), copied.len());
                let len = chain.writable.remaining();
                prop_assert_eq!(chain.writable.write(&vec![0xab; len]), len);
                prop_assert!(chain.writable.is_empty());
            }
        }
    }
}
