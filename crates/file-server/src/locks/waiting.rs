//! How many requests may wait for locks at a time.
//!
//! Each has its own thread, and a place in the guest's queue. The request that ends a lock needs a place, too, so
//! the waiting ones must leave some.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maximum number of requests that wait. The queue has 128 entries, and a request takes up to three.
const MAX_WAITING: usize = 32;

/// Counts requests that wait.
#[derive(Debug, Default)]
pub struct WaitingSlots {
    used: Arc<AtomicUsize>,
}

/// The permission to wait, until it is dropped.
#[derive(Debug)]
pub struct WaitingSlot {
    used: Arc<AtomicUsize>,
}

impl WaitingSlots {
    /// Takes a slot if there is one.
    pub fn take(&self) -> Option<WaitingSlot> {
        let one_more = |used| (used < MAX_WAITING).then_some(used + 1);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .ok()?;
        Some(WaitingSlot {
            used: self.used.clone(),
        })
    }
}

impl Drop for WaitingSlot {
    fn drop(&mut self) {
        self.used.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_limited_and_returned() {
        let slots = WaitingSlots::default();
        let mut taken: Vec<WaitingSlot> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken.len(), MAX_WAITING);
        taken.pop();
        assert!(slots.take().is_some());
    }
}
