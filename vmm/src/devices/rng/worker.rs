//! Fills the driver's buffers from `getrandom`.

use super::super::virtio::GuestError;
use super::super::virtio::worker::{Active, Backend, Poll};

/// Most bytes of one request; the driver asks again for more.
const MAX_REQUEST_BYTES: usize = 4096;

/// The entropy device's thread.
#[derive(Debug)]
pub struct RngBackend;

impl Backend for RngBackend {
    fn queue_ready(&mut self, index: usize, active: &mut Active, _poll: &Poll) -> Result<(), GuestError> {
        let Some(queue) = active.queues.get_mut(index) else {
            return Ok(());
        };
        while let Some(mut chain) = queue.pop(&active.memory)? {
            chain.writable.truncate(MAX_REQUEST_BYTES);
            let wanted = chain.writable.remaining();
            while !chain.writable.is_empty() {
                match chain.writable.fill_with_random() {
                    Ok(count) if count > 0 => chain.writable.skip(count),
                    // Interrupted by a signal, which no thread but a vCPU's gets.
                    _ => break,
                }
            }
            queue.add_used(&active.memory, chain.head, wanted - chain.writable.remaining())?;
            queue.signal(&active.memory, &active.interrupt)?;
        }
        if queue.enable_notification(&active.memory)? {
            return self.queue_ready(index, active, _poll);
        }
        Ok(())
    }
}
