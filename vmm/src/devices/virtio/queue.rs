//! A virtqueue as a device's thread uses it.

use virtio_queue::{Queue, QueueOwnedT, QueueT};

use super::GuestError;
use super::chain::Chain;
use super::interrupt::Interrupt;
use crate::memory::GuestMemory;

/// A virtqueue, with the rules that rust-vmm's leaves to its user.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    /// Chains parsed so far.
    #[cfg(any(test, fuzzing))]
    pub parsed: usize,
}

impl VirtQueue {
    /// Takes over a queue that the transport has validated.
    #[must_use]
    pub fn new(queue: Queue) -> Self {
        Self {
            queue,
            #[cfg(any(test, fuzzing))]
            parsed: 0,
        }
    }

    /// Takes the next request of the driver.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Result<Option<Chain<'m>>, GuestError> {
        let descriptors = self.queue.iter(memory).map_err(GuestError::Queue)?.next();
        #[cfg(any(test, fuzzing))]
        {
            self.parsed += usize::from(descriptors.is_some());
        }
        descriptors
            .map(|descriptors| Chain::parse(memory, descriptors))
            .transpose()
    }

    /// Undoes the last pop: the next [`Self::pop`] returns the same request.
    pub fn undo_pop(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Returns a request to the driver, with `written` bytes of its writable buffers filled.
    pub fn add_used(&mut self, memory: &GuestMemory, head: u16, written: usize) -> Result<(), GuestError> {
        self.queue
            .add_used(memory, head, u32::try_from(written).unwrap_or(u32::MAX))
            .map_err(GuestError::Queue)
    }

    /// Interrupts the driver if it has asked for an interrupt for the requests returned since the last call.
    pub fn signal(&mut self, memory: &GuestMemory, interrupt: &Interrupt) -> Result<(), GuestError> {
        if self.queue.needs_notification(memory).map_err(GuestError::Queue)? {
            interrupt.signal_used();
        }
        Ok(())
    }

    /// Asks for a notification when the driver adds a request. `true` means that a request is already waiting, for
    /// which no notification may arrive.
    pub fn enable_notification(&mut self, memory: &GuestMemory) -> Result<bool, GuestError> {
        self.queue.enable_notification(memory).map_err(GuestError::Queue)
    }

    /// Tells the driver that it need not send notifications.
    pub fn disable_notification(&mut self, memory: &GuestMemory) -> Result<(), GuestError> {
        self.queue.disable_notification(memory).map_err(GuestError::Queue)
    }
}
