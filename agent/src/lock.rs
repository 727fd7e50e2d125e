//! Locks that still work after a thread has panicked while holding one.
//!
//! A panic leaves locked data in the state between two statements. All data locked here is still usable then, and PID 1
//! must not end.

use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
