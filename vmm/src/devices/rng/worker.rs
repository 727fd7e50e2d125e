//! Fills the driver's buffers from `getrandom`.

use super::super::virtio::GuestError;
use super::super::virtio::turn::Turn;
use super::super::virtio::worker::{Active, Backend, Poll};

/// Maximum number of bytes of one request; the driver asks again for more.
const MAX_REQUEST_BYTES: usize = 4096;

/// The entropy device's thread.
#[derive(Debug)]
pub struct RngBackend;

impl Backend for RngBackend {
    fn queue_ready(&mut self, index: usize, active: &mut Active, poll: &Poll) -> Result<(), GuestError> {
        let Some(queue) = active.queues.get_mut(index) else {
            return Ok(());
        };
        let mut turn = Turn::new(poll);
        while turn.may_continue() {
            let Some(mut chain) = queue.pop(&active.memory)? else {
                if queue.enable_notification(&active.memory)? {
                    continue;
                }
                break;
            };
            chain.writable.truncate(MAX_REQUEST_BYTES);
            let wanted = chain.writable.remaining();
            while !chain.writable.is_empty() {
                match chain.writable.fill_with_random() {
                    Ok(count) if count > 0 => chain.writable.skip(count),
                    // Interrupted by a signal, which only vCPU threads get.
                    _ => break,
                }
            }
            let written = wanted - chain.writable.remaining();
            turn.spend(chain.descriptors, written);
            queue.add_used(&active.memory, chain.head, written)?;
            queue.signal(&active.memory, &active.interrupt)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::virtio::driver::{Driver, FREE, WRITE};
    use super::super::super::virtio::turn::MAX_CHAINS;
    use super::*;

    #[test]
    fn requests_beyond_the_limit_of_a_turn_are_processed_in_the_next() {
        let size = u16::try_from(2 * MAX_CHAINS).unwrap();
        let mut driver = Driver::new(0x2_0000, 1, size);
        let head = driver.chain(0, &[(FREE, 64, WRITE)]);
        for _ in 0..size {
            driver.offer_again(0, head);
        }
        let (mut active, poll) = (driver.active(0), Poll::new().unwrap());
        for turn in 1..=2 {
            RngBackend.queue_ready(0, &mut active, &poll).unwrap();
            assert_eq!(usize::from(driver.used(0)), turn * MAX_CHAINS);
            assert!(poll.takes_another_turn());
        }
        RngBackend.queue_ready(0, &mut active, &poll).unwrap();
        assert!(!poll.takes_another_turn());
        assert_eq!(driver.used_entry(0, 0), (head, 64));
    }
}
