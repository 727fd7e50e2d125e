//! Locks between threads, also after one of them has panicked while it held one.
//!
//! A panic leaves the data behind a lock as they were between two statements. All that is locked here stays usable then, and a
//! machine must be brought to its end also after a panic.

use std::sync::{LockResult, Mutex, MutexGuard, PoisonError};

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    unpoisoned(mutex.lock())
}

/// What a lock or a wait with one gives.
pub(crate) fn unpoisoned<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}
