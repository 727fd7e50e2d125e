//! The bytes of a file that one owner has locked, so that the number of ranges can be bounded: the host's kernel keeps a
//! structure for each.
//!
//! Ranges are merged and split as the kernel does it (fcntl(2)). A request that waits gets its lock at an unknown time.
//! What the same owner does with these bytes meanwhile happens before or after it, so the result is not known. Such
//! bytes count as ranges, divided wherever the kernel may divide them. So the kernel has at most twice as many ranges as
//! there are here, and two more for each request that waits.

use std::collections::BTreeMap;

use crate::protocol::locks::{LockRange, LockType};

/// What an owner may do with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unlocked,
    Shared,
    Exclusive,
    /// It depends on when a request that waits gets its lock.
    Unknown,
}

impl State {
    fn of(lock_type: LockType) -> Self {
        match lock_type {
            LockType::Shared => Self::Shared,
            LockType::Exclusive => Self::Exclusive,
            LockType::Unlock => Self::Unlocked,
        }
    }
}

/// Bytes in one state: `first` up to and including `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Segment {
    first: u64,
    last: u64,
    state: State,
}

/// A lock that is set or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    pub range: LockRange,
    pub lock_type: LockType,
}

/// When a lock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Now,
    /// At some time since its request began to wait.
    Waited,
}

/// What setting a lock does to the ranges.
#[derive(Debug)]
pub struct Change {
    removed: Vec<u64>,
    inserted: Vec<Segment>,
}

impl Change {
    /// How many more ranges there are after it.
    pub fn growth(&self) -> usize {
        self.inserted.len().saturating_sub(self.removed.len())
    }

    /// How many fewer ranges there are after it.
    pub fn reduction(&self) -> usize {
        self.removed.len().saturating_sub(self.inserted.len())
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Ranges {
    /// By their first bytes. They do not overlap, and none is unlocked.
    segments: BTreeMap<u64, Segment>,
}

impl Ranges {
    pub fn count(&self) -> usize {
        self.segments.len()
    }

    /// What a lock changes while requests of the same owner wait for those in `waiting`.
    pub fn change(&self, lock: Lock, when: When, waiting: &[Lock]) -> Change {
        let (first, last) = (lock.range.first(), lock.range.last());
        let old = self.touching(first, last);
        let unknown: Vec<Segment> = match when {
            When::Now => Vec::new(),
            // The owner has changed these bytes since, or before, the lock was set.
            When::Waited => old.iter().filter(|old| old.state == State::Unknown).copied().collect(),
        };
        let mut inside = filled(first, last, State::of(lock.lock_type), &unknown);
        for other in waiting {
            // The order of two locks of the same type makes no difference.
            if other.lock_type != lock.lock_type {
                let first = other.range.first().max(first);
                inside = with_unknown(inside, first, other.range.last().min(last));
            }
        }
        let before = old.iter().filter(|old| old.first < first).map(|old| Segment {
            last: old.last.min(first - 1),
            ..*old
        });
        let after = old.iter().filter(|old| old.last > last).map(|old| Segment {
            first: old.first.max(last + 1),
            ..*old
        });
        Change {
            removed: old.iter().map(|old| old.first).collect(),
            inserted: merged(before.chain(inside).chain(after)),
        }
    }

    /// Applies a change to the ranges that it was calculated for.
    pub fn apply(&mut self, change: Change) {
        for first in change.removed {
            self.segments.remove(&first);
        }
        let inserted = change.inserted.into_iter();
        self.segments.extend(inserted.map(|segment| (segment.first, segment)));
    }

    /// The segments that overlap with or adjoin these bytes.
    fn touching(&self, first: u64, last: u64) -> Vec<Segment> {
        let before = self.segments.range(..first).next_back();
        let before = before.filter(|(_, segment)| segment.last >= first.saturating_sub(1));
        let others = self.segments.range(first..=last.saturating_add(1));
        before.into_iter().chain(others).map(|(_, segment)| *segment).collect()
    }
}

/// Bytes in a state, except for parts of the segments in `kept`, which are in order.
fn filled(first: u64, last: u64, state: State, kept: &[Segment]) -> Vec<Segment> {
    let mut segments = Vec::with_capacity(2 * kept.len() + 1);
    // The first byte that is not in `segments`, if it is not after `last`.
    let mut next = first;
    for segment in kept {
        let (from, to) = (segment.first.max(first), segment.last.min(last));
        if from > to {
            continue;
        }
        if next < from {
            segments.push(Segment {
                first: next,
                last: from - 1,
                state,
            });
        }
        segments.push(Segment {
            first: from,
            last: to,
            ..*segment
        });
        next = to.saturating_add(1);
    }
    if next <= last {
        segments.push(Segment {
            first: next,
            last,
            state,
        });
    }
    segments
}

/// Makes the state of these bytes unknown, if there are any.
fn with_unknown(segments: Vec<Segment>, first: u64, last: u64) -> Vec<Segment> {
    if first > last {
        return segments;
    }
    let mut marked = Vec::with_capacity(segments.len() + 2);
    for segment in segments {
        if segment.first < first {
            let last = segment.last.min(first - 1);
            marked.push(Segment { last, ..segment });
        }
        let (from, to) = (segment.first.max(first), segment.last.min(last));
        if from <= to {
            marked.push(Segment {
                first: from,
                last: to,
                state: State::Unknown,
            });
        }
        if segment.last > last {
            let first = segment.first.max(last + 1);
            marked.push(Segment { first, ..segment });
        }
    }
    marked
}

/// Drops what is unlocked and merges neighbours in the same state. Unknown ones may differ.
fn merged(segments: impl Iterator<Item = Segment>) -> Vec<Segment> {
    let mut merged: Vec<Segment> = Vec::new();
    for segment in segments.filter(|segment| segment.state != State::Unlocked) {
        match merged.last_mut() {
            Some(last)
                if last.state == segment.state && last.state != State::Unknown && last.last + 1 == segment.first =>
            {
                last.last = segment.last;
            }
            _ => merged.push(segment),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes of the files in the tests.
    const BYTES: usize = 16;

    fn lock(lock_type: LockType, first: u64, last: u64) -> Lock {
        let length = i64::try_from(last - first + 1).unwrap();
        let range = LockRange::of_start_and_length(first.cast_signed(), length);
        Lock { range, lock_type }
    }

    /// What the kernel has: the state of each byte.
    type Bytes = [State; BYTES];

    fn set(bytes: &mut Bytes, lock: Lock) {
        let (first, last) = (lock.range.first() as usize, lock.range.last() as usize);
        bytes[first..=last].fill(State::of(lock.lock_type));
    }

    /// How many ranges these are for the kernel.
    fn count(bytes: &Bytes) -> usize {
        let states = bytes.chunk_by(|a, b| a == b).map(|chunk| chunk[0]);
        states.filter(|state| *state != State::Unlocked).count()
    }

    fn apply(ranges: &mut Ranges, lock: Lock, when: When, waiting: &[Lock]) {
        let before = ranges.count();
        let change = ranges.change(lock, when, waiting);
        let after = before + change.growth() - change.reduction();
        ranges.apply(change);
        assert_eq!(ranges.count(), after);
    }

    fn any_lock() -> impl Strategy<Value = Lock> {
        let types = vec![LockType::Shared, LockType::Exclusive, LockType::Unlock];
        let bytes = 0..BYTES as u64;
        (prop::sample::select(types), bytes.clone(), bytes)
            .prop_map(|(lock_type, a, b)| lock(lock_type, a.min(b), a.max(b)))
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(Lock),
        /// A request begins to wait.
        Wait(Lock),
        /// The kernel grants a lock of a request that waits; the server does not know it yet.
        Grant(prop::sample::Index),
        /// The request ends.
        End(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => any_lock().prop_map(Step::Set),
            1 => any_lock().prop_map(Step::Wait),
            1 => any::<prop::sample::Index>().prop_map(Step::Grant),
            1 => any::<prop::sample::Index>().prop_map(Step::End),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn without_waiting_requests_the_ranges_are_those_of_the_kernel(
            locks in prop::collection::vec(any_lock(), 0..40)
        ) {
            let (mut ranges, mut kernel) = (Ranges::default(), [State::Unlocked; BYTES]);
            for lock in locks {
                apply(&mut ranges, lock, When::Now, &[]);
                set(&mut kernel, lock);
                prop_assert_eq!(ranges.count(), count(&kernel));
                for segment in ranges.segments.values() {
                    let bytes = &kernel[segment.first as usize..=segment.last as usize];
                    prop_assert!(bytes.iter().all(|state| *state == segment.state));
                }
            }
        }

        #[test]
        fn with_waiting_requests_the_kernel_has_at_most_twice_as_many(steps in steps()) {
            let (mut ranges, mut kernel) = (Ranges::default(), [State::Unlocked; BYTES]);
            // The requests, and whether the kernel has granted them.
            let mut waiting: Vec<(Lock, bool)> = Vec::new();
            let locks = |waiting: &[(Lock, bool)]| waiting.iter().map(|(lock, _)| *lock).collect::<Vec<_>>();
            for step in steps {
                match step {
                    Step::Set(lock) => {
                        apply(&mut ranges, lock, When::Now, &locks(&waiting));
                        set(&mut kernel, lock);
                    }
                    Step::Wait(lock) => waiting.push((lock, false)),
                    Step::Grant(_) | Step::End(_) if waiting.is_empty() => {}
                    Step::Grant(index) => {
                        let (lock, granted) = index.get_mut(&mut waiting);
                        if !std::mem::replace(granted, true) {
                            set(&mut kernel, *lock);
                        }
                    }
                    Step::End(index) => {
                        let (lock, granted) = waiting.remove(index.index(waiting.len()));
                        if granted {
                            apply(&mut ranges, lock, When::Waited, &locks(&waiting));
                        }
                    }
                }
                let granted = waiting.iter().filter(|(_, granted)| *granted).count();
                prop_assert!(count(&kernel) <= 2 * (ranges.count() + granted), "{kernel:?} {ranges:?}");
                if granted == 0 {
                    prop_assert!(count(&kernel) <= ranges.count(), "{kernel:?} {ranges:?}");
                }
            }
        }
    }

    #[test]
    fn unlocking_in_the_middle_adds_a_range() {
        let mut ranges = Ranges::default();
        apply(&mut ranges, lock(LockType::Exclusive, 0, 9), When::Now, &[]);
        let change = ranges.change(lock(LockType::Unlock, 4, 4), When::Now, &[]);
        assert_eq!((change.growth(), change.reduction()), (1, 0));
    }

    #[test]
    fn the_last_byte_of_the_largest_file_is_locked() {
        let mut ranges = Ranges::default();
        for lock_type in [LockType::Shared, LockType::Exclusive, LockType::Unlock] {
            let range = LockRange::WHOLE_FILE;
            apply(&mut ranges, Lock { range, lock_type }, When::Now, &[]);
            let first = range.last().cast_signed();
            let range = LockRange::of_start_and_length(first, 0);
            apply(&mut ranges, Lock { range, lock_type }, When::Now, &[]);
            assert_eq!(ranges.count(), usize::from(lock_type != LockType::Unlock));
        }
    }
}
