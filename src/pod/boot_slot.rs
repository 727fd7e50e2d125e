//! Limits how many VMs boot on this host at the same time.
//!
//! Booting is CPU-bound, and a guest that does not come up in time is killed. If a hundred Pods booted at once, all
//! would time out and start again. Waiting processes share only lock files, so a process that dies frees its place.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::patience::LOOK_INTERVAL;
use crate::state::{LockedFile, RecordError, lock_exclusive, try_lock_exclusive};

/// A booting guest sometimes waits for its disks or its host, so two of them keep one processor busy.
const BOOTS_PER_PROCESSOR: usize = 2;

/// How long a process waits in the queue before it looks for a slot anyway: if the first one is stopped, it must not
/// block the others forever.
const QUEUE_PATIENCE: Duration = Duration::from_secs(300);

/// How often processes that left the queue look for a slot.
const SLOW_LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// How long a process waits for a slot: if the slots' holders are stopped, the others boot without one.
const SLOT_PATIENCE: Duration = Duration::from_secs(1200);

/// Permission to boot a VM, until it is dropped.
#[derive(Debug)]
pub struct BootSlot {
    /// `None` if the wait took too long.
    _lock: Option<LockedFile>,
}

impl BootSlot {
    /// Waits for one of this host's boot slots. Their lock files are in `directory`.
    ///
    /// # Errors
    /// If a lock file cannot be opened.
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
            "no boot slot was free for {} s; booting the VM without one",
            SLOT_PATIENCE.as_secs()
        );
        Ok(Self { _lock: None })
    }
}

/// Waits until no other process looks for a slot; `None` after [`QUEUE_PATIENCE`].
async fn first_in_queue(directory: &Path) -> Result<Option<LockedFile>, RecordError> {
    let path = directory.join("boot-queue.lock");
    if let Some(lock) = try_lock_exclusive(&path)? {
        return Ok(Some(lock));
    }
    let (sender, receiver) = oneshot::channel();
    // Use a plain thread: a tokio runtime waits for its blocking threads at shutdown, but this one may outlast its Pod.
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
    async fn concurrent_boots_are_limited_to_the_slots_and_all_complete() {
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
    async fn a_cancelled_waiter_gives_its_place_to_the_next() {
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
    async fn a_stopped_process_does_not_block_the_boot_queue_forever() {
        let dir = tempfile::tempdir().unwrap();
        let _stopped = lock_exclusive(&dir.path().join("boot-queue.lock")).unwrap();
        let slot = BootSlot::wait_for_one_of(dir.path(), 1).await.unwrap();
        assert!(slot._lock.is_some());
        let another = BootSlot::wait_for_one_of(dir.path(), 1).await.unwrap();
        assert!(another._lock.is_none());
    }
}
