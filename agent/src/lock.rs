//! Locks between threads, also after one of them has panicked while it held one.
//!
//! A panic leaves the data behind a lock as they were between two statements. All that is locked here stays usable then, and PID
//! 1 must not end.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
