//! How many machines boot on this host at the same time.
//!
//! Booting is what takes processors; a guest that has not come up after some time is given up. If a hundred Pods booted at once, none would
//! come up in time, and all would begin again. Those that wait here share nothing but lock files, so that whoever dies makes room.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::patience::LOOK_INTERVAL;
use crate::state::{LockedFile, RecordError, lock_exclusive, try_lock_exclusive};

/// A guest waits for its disks and its host now and then, so that two of them keep a processor busy.
const BOOTS_PER_PROCESSOR: usize = 2;

/// How long anybody stays in the queue before it looks by itself: should the first one be stopped, it must not hold up the others for ever.
const QUEUE_PATIENCE: Duration = Duration::from_secs(300);

/// How often those look that have left the queue.
const SLOW_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long anybody waits for a slot: should those be stopped that have them, the others boot without.
const SLOT_PATIENCE: Duration = Duration::from_secs(1200);

/// The right to boot a machine, until it is dropped.
#[derive(Debug)]
pub struct BootSlot {
    /// None of somebody who has waited for too long.
    _lock: Option<LockedFile>,
}

impl BootSlot {
    /// Waits until fewer machines boot than this host has slots for, whose locks lie in this directory.
    ///
    /// # Errors
    /// When a lock file cannot be opened.
    pub async fn wait(directory: &Path) -> Result<Self, RecordError> {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::wait_for_one_of(directory, BOOTS_PER_PROCESSOR * processors).await
    }

    async fn wait_for_one_of(directory: &Path, count: usize) -> Result<Self, RecordError> {
        let start = Instant::now();
        let first = first_in_queue(directory).await?;
        let interval = if first.is_some() {
            LOOK_INTERVAL
        } else {
            SLOW_LOOK_INTERVAL
        };
        while start.elapsed() < SLOT_PATIENCE {
            for slot in 0..count {
                if let Some(lock) = try_lock_exclusive(&directory.join(format!("boot-{slot}.lock")))? {
                    return Ok(Self { _lock: Some(lock) });
                }
            }
            tokio::time::sleep(interval).await;
        }
        tracing::warn!(
            "the machine boots without a slot: none was free for {} s",
            SLOT_PATIENCE.as_secs()
        );
        Ok(Self { _lock: None })
    }
}

/// Waits until nobody else looks for a slot; `None` after [`QUEUE_PATIENCE`].
async fn first_in_queue(directory: &Path) -> Result<Option<LockedFile>, RecordError> {
    let path = directory.join("boot-queue.lock");
    if let Some(lock) = try_lock_exclusive(&path)? {
        return Ok(Some(lock));
    }
    let (sender, receiver) = oneshot::channel();
    // A thread of its own: nobody waits for it when its Pod is given up, as a runtime would for one of its own.
    let thread = std::thread::Builder::new().name("boot-queue".to_owned());
    if thread.spawn(move || sender.send(lock_exclusive(&path))).is_err() {
        return Ok(None);
    }
    match tokio::time::timeout(QUEUE_PATIENCE, receiver).await {
        Ok(Ok(lock)) => lock.map(Some),
        Ok(Err(_)) | Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    #[tokio::test]
    async fn no_more_machines_boot_at_once_than_there_are_slots_and_all_have_their_turn() {
        let dir = tempfile::tempdir().unwrap();
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let boots = (0..20).map(|_| async {
            let _slot = BootSlot::wait_for_one_of(dir.path(), 3).await.unwrap();
            most.fetch_max(now.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            now.fetch_sub(1, Ordering::Relaxed);
        });
        join_all(boots).await;
        assert_eq!(now.into_inner(), 0);
        assert!(most.into_inner() <= 3);
    }

    #[tokio::test]
    async fn whoever_is_given_up_while_it_waits_leaves_its_place_to_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let slot = BootSlot::wait_for_one_of(dir.path(), 1).await.unwrap();
        let waits = || {
            let path = dir.path().to_owned();
            tokio::spawn(async move { BootSlot::wait_for_one_of(&path, 1).await })
        };
        let (first, second, third) = (waits(), waits(), waits());
        while try_lock_exclusive(&dir.path().join("boot-queue.lock"))
            .unwrap()
            .is_some()
        {
            tokio::task::yield_now().await;
        }
        first.abort();
        second.abort();
        drop(slot);
        third.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_stopped_in_the_queue_or_with_a_slot_does_not_hold_up_the_others_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let _stopped = lock_exclusive(&dir.path().join("boot-queue.lock")).unwrap();
        let slot = BootSlot::wait_for_one_of(dir.path(), 1).await.unwrap();
        assert!(slot._lock.is_some());
        let another = BootSlot::wait_for_one_of(dir.path(), 1).await.unwrap();
        assert!(another._lock.is_none());
    }
}
