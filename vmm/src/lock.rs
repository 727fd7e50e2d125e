//! Locks that still work after a thread has panicked while holding one.
//!
//! A panic leaves locked data in the state between two statements. All data locked here is still usable then, and a VM
//! must be torn down properly even after a panic.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// The guard that locking, or waiting with a lock, returns.
pub(crate) fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
