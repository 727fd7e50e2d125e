//! A simulated driver for tests and the fuzzer, with real queues in guest memory.

use std::sync::Arc;

use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::Interrupt;
use super::queue::VirtQueue;
use super::worker::Active;
use crate::memory::GuestMemory;

/// Descriptor flag: another descriptor follows.
pub const NEXT: u16 = flag(VRING_DESC_F_NEXT);
/// Descriptor flag: the device writes.
pub const WRITE: u16 = flag(VRING_DESC_F_WRITE);
/// Descriptor flag: the buffer is a table of descriptors.
pub const INDIRECT: u16 = flag(VRING_DESC_F_INDIRECT);

/// A flag with the width that it has in descriptors.
const fn flag(value: u32) -> u16 {
    let [low, high, 0, 0] = value.to_le_bytes() else {
        panic!("flags have two bytes")
    };
    u16::from_le_bytes([low, high])
}

/// First address of the rings. Each queue has a descriptor table, and an available and a used ring at
/// [`AVAILABLE`] and [`USED`].
const RINGS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const DISTANCE: u64 = 0x5000;
/// First address that no ring of the first three queues uses.
pub const FREE: u64 = 0x1_0000;

/// The driver's side of a device's queues.
#[derive(Debug)]
pub struct Driver {
    pub memory: GuestMemory,
    size: u16,
    next_descriptor: Vec<u16>,
}

impl Driver {
    /// Creates guest memory of this size with `queues` queues of `size` entries.
    pub fn new(memory_bytes: usize, queues: usize, size: u16) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), memory_bytes)]).unwrap();
        Self {
            memory,
            size,
            next_descriptor: vec![0; queues],
        }
    }

    fn ring(queue: usize) -> u64 {
        RINGS + queue as u64 * DISTANCE
    }

    pub fn available_ring(queue: usize) -> u64 {
        Self::ring(queue) + AVAILABLE
    }

    pub fn used_ring(queue: usize) -> u64 {
        Self::ring(queue) + USED
    }

    /// The resources that the transport passes to the device.
    pub fn active(&self, features: u64) -> Active {
        let queues = 0..self.next_descriptor.len();
        let queue = |index| {
            let base = u32::try_from(Self::ring(index)).unwrap();
            let mut queue = Queue::new(self.size).unwrap();
            queue.set_desc_table_address(Some(base), None);
            queue.set_avail_ring_address(Some(base + u32::try_from(AVAILABLE).unwrap()), None);
            queue.set_used_ring_address(Some(base + u32::try_from(USED).unwrap()), None);
            queue.set_ready(true);
            VirtQueue::new(queue)
        };
        Active {
            memory: self.memory.clone(),
            queues: queues.map(queue).collect(),
            interrupt: Arc::new(Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap())),
            features,
        }
    }

    fn write_descriptor(&self, queue: usize, index: u16, descriptor: (u64, u32, u16), next: u16) {
        let at = Self::ring(queue) + u64::from(index) * 16;
        let (address, len, flags) = descriptor;
        self.memory.write_obj(address, GuestAddress(at)).unwrap();
        let rest = u64::from(len) | (u64::from(flags) << 32) | (u64::from(next) << 48);
        self.memory.write_obj(rest, GuestAddress(at + 8)).unwrap();
    }

    /// Writes a chain (address, length, flags without [`NEXT`]) into the descriptor table and returns its head.
    pub fn chain(&mut self, queue: usize, descriptors: &[(u64, u32, u16)]) -> u16 {
        let head = self.next_descriptor[queue];
        for (number, (address, len, flags)) in descriptors.iter().enumerate() {
            let index = self.next_descriptor[queue];
            let next = (index + 1) % self.size;
            let flags = if number + 1 < descriptors.len() {
                *flags | NEXT
            } else {
                *flags
            };
            self.write_descriptor(queue, index, (*address, *len, flags), next);
            self.next_descriptor[queue] = next;
        }
        head
    }

    /// Writes an entry of the available ring without making it available.
    pub fn put(&self, queue: usize, place: u16, head: u16) {
        let at = Self::available_ring(queue) + 4 + u64::from(place % self.size) * 2;
        self.memory.write_obj(head, GuestAddress(at)).unwrap();
    }

    /// Sets the index of the available ring.
    pub fn set_available(&self, queue: usize, index: u16) {
        self.memory
            .write_obj(index, GuestAddress(Self::available_ring(queue) + 2))
            .unwrap();
    }

    /// Makes a chain available.
    pub fn offer(&mut self, queue: usize, descriptors: &[(u64, u32, u16)]) -> u16 {
        let head = self.chain(queue, descriptors);
        self.offer_again(queue, head);
        head
    }

    /// Makes a chain available again.
    pub fn offer_again(&self, queue: usize, head: u16) {
        let index: u16 = self
            .memory
            .read_obj(GuestAddress(Self::available_ring(queue) + 2))
            .unwrap();
        self.put(queue, index, head);
        self.set_available(queue, index.wrapping_add(1));
    }

    /// How many chains the device has returned, modulo 65536.
    pub fn used(&self, queue: usize) -> u16 {
        self.memory.read_obj(GuestAddress(Self::used_ring(queue) + 2)).unwrap()
    }

    /// The `index`th chain that the device returned: its head and the bytes written to it.
    pub fn used_entry(&self, queue: usize, index: u16) -> (u16, u32) {
        let at = Self::used_ring(queue) + 4 + u64::from(index % self.size) * 8;
        let [head, written]: [u32; 2] = self.memory.read_obj(GuestAddress(at)).unwrap();
        (u16::try_from(head).unwrap(), written)
    }
}
