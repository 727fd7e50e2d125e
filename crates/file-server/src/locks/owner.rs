//! The locks of one owner: its descriptor, and how many ranges it has locked with it.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::description;
use super::ranges::{Lock, Ranges, When};
use crate::protocol::locks::{LockRange, LockType};

/// Setting a lock adds at most this many ranges: it, and the second part of one that it divides.
const MOST_ADDED: usize = 2;

/// How many ranges all owners may have locked, and how many they have.
#[derive(Debug)]
pub struct RangeBudget {
    used: AtomicUsize,
    limit: usize,
}

impl RangeBudget {
    pub fn new(limit: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit,
        }
    }

    fn take(&self, count: usize) -> Result<(), Errno> {
        if count == 0 {
            return Ok(());
        }
        let more = |used: usize| used.checked_add(count).filter(|used| *used <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        taken.map(|_| ()).map_err(|_| Errno::NOLCK)
    }

    /// Takes more than the limit if necessary, for what the kernel has already.
    fn take_anyway(&self, count: usize) {
        self.used.fetch_add(count, Ordering::Relaxed);
    }

    fn give_back(&self, count: usize) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
struct Held {
    ranges: Ranges,
    /// What requests wait for.
    waiting: Vec<Lock>,
}

/// An owner's descriptor of a file. The locks end when it is dropped.
#[derive(Debug)]
pub struct OwnerFile {
    descriptor: OwnedFd,
    /// Held while a lock is set, so that the ranges change in the order in which the kernel changes them.
    held: Mutex<Held>,
    budget: Arc<RangeBudget>,
}

impl OwnerFile {
    pub fn new(descriptor: OwnedFd, budget: Arc<RangeBudget>) -> Self {
        Self {
            descriptor,
            held: Mutex::default(),
            budget,
        }
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets or ends a lock. `EAGAIN` means that another owner has a conflicting one, `ENOLCK` that there are too many.
    pub fn set(&self, lock: Lock) -> Result<(), Errno> {
        let mut held = self.held();
        let change = held.ranges.change(lock, When::Now, &held.waiting);
        self.budget.take(change.growth())?;
        if let Err(error) = description::set(&self.descriptor, lock.lock_type, lock.range, false) {
            self.budget.give_back(change.growth());
            return Err(error);
        }
        self.budget.give_back(change.reduction());
        held.ranges.apply(change);
        Ok(())
    }

    /// Waits until it can set a lock.
    pub fn wait(&self, lock: Lock) -> Result<(), Errno> {
        self.budget.take(MOST_ADDED)?;
        self.held().waiting.push(lock);
        let result = description::set(&self.descriptor, lock.lock_type, lock.range, true);
        let mut held = self.held();
        // Which of several equal ones makes no difference.
        if let Some(index) = held.waiting.iter().position(|other| *other == lock) {
            held.waiting.swap_remove(index);
        }
        if result.is_ok() {
            let change = held.ranges.change(lock, When::Waited, &held.waiting);
            self.budget.take_anyway(change.growth());
            self.budget.give_back(change.reduction());
            held.ranges.apply(change);
        }
        self.budget.give_back(MOST_ADDED);
        result
    }

    /// Ends all locks.
    pub fn end(&self) {
        let lock = Lock {
            range: LockRange::WHOLE_FILE,
            lock_type: LockType::Unlock,
        };
        let mut held = self.held();
        // It fails only for file systems of a network that is down; the host's kernel unlocks when the descriptor is
        // closed.
        if description::set(&self.descriptor, lock.lock_type, lock.range, false).is_ok() {
            let change = held.ranges.change(lock, When::Now, &held.waiting);
            // More only if requests wait.
            self.budget.take_anyway(change.growth());
            self.budget.give_back(change.reduction());
            held.ranges.apply(change);
        }
    }
}

impl Drop for OwnerFile {
    fn drop(&mut self) {
        let held = self.held.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.budget.give_back(held.ranges.count());
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn lock(lock_type: LockType, start: i64, length: i64) -> Lock {
        let range = LockRange::of_start_and_length(start, length);
        Lock { range, lock_type }
    }

    fn owner(file: &tempfile::NamedTempFile, budget: &Arc<RangeBudget>) -> OwnerFile {
        let file = File::options().read(true).write(true).open(file.path()).unwrap();
        OwnerFile::new(file.into(), budget.clone())
    }

    #[test]
    fn the_number_of_ranges_of_all_owners_is_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let budget = Arc::new(RangeBudget::new(4));
        let (first, second) = (owner(&file, &budget), owner(&file, &budget));
        for start in [0, 2, 4] {
            first.set(lock(LockType::Exclusive, start, 1)).unwrap();
        }
        second.set(lock(LockType::Exclusive, 10, 9)).unwrap();
        assert_eq!(first.set(lock(LockType::Exclusive, 6, 1)), Err(Errno::NOLCK));
        // Half of a range would be two.
        assert_eq!(second.set(lock(LockType::Unlock, 12, 1)), Err(Errno::NOLCK));
        assert_eq!(second.set(lock(LockType::Shared, 12, 1)), Err(Errno::NOLCK));
        // Nothing of this needs another range.
        first.set(lock(LockType::Exclusive, 4, 2)).unwrap();
        assert_eq!(first.set(lock(LockType::Exclusive, 5, 6)), Err(Errno::AGAIN));
        first.set(lock(LockType::Exclusive, 0, 6)).unwrap();
        assert_eq!(budget.used(), 2);
        second.set(lock(LockType::Unlock, 12, 1)).unwrap();
        first.end();
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_lock_that_was_waited_for_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let budget = Arc::new(RangeBudget::new(4));
        let (first, second) = (owner(&file, &budget), owner(&file, &budget));
        first.set(lock(LockType::Exclusive, 0, 1)).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.wait(lock(LockType::Exclusive, 0, 1)));
            while second.held().waiting.is_empty() {
                std::thread::yield_now();
            }
            first.set(lock(LockType::Unlock, 0, 1)).unwrap();
            waiting.join().unwrap().unwrap();
        });
        assert_eq!(budget.used(), 1);
        for start in [0, 2, 4] {
            first.set(lock(LockType::Shared, 10 + start, 1)).unwrap();
        }
        assert_eq!(second.wait(lock(LockType::Shared, 5, 1)), Err(Errno::NOLCK));
        second.end();
        drop(first);
        assert_eq!(budget.used(), 0);
    }
}
