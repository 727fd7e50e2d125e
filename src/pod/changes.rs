//! Follows Pods through their records: inotify reports which were replaced, without polling.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::state::{Paths, PodRecords};

/// Watches the records of all Pods.
#[derive(Debug)]
pub struct Changes {
    inotify: Inotify,
    pods_dir: PathBuf,
    pods: WatchDescriptor,
    /// UIDs of the Pods.
    each: HashMap<WatchDescriptor, String>,
}

/// The result of waiting for changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Pods with these UIDs were created, removed or have new records.
    Pods(BTreeSet<String>),
    /// The event queue overflowed: check all Pods.
    Everything,
    /// One of the caller's descriptors is ready.
    Other,
    /// The deadline passed without a change.
    Nothing,
}

impl Changes {
    /// Starts watching. Records that are read after this call can be followed without a gap.
    ///
    /// # Errors
    /// If the directories cannot be watched.
    pub fn of(paths: &Paths) -> anyhow::Result<Self> {
        paths.create()?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("cannot watch files; fs.inotify.max_user_instances may be reached (raise it with sysctl)")?;
        let pods_dir = paths.pods();
        let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
        let pods =
            add(&inotify, &pods_dir, flags)?.with_context(|| format!("{} does not exist", pods_dir.display()))?;
        let mut changes = Self {
            inotify,
            pods_dir,
            pods,
            each: HashMap::new(),
        };
        let uids = PodRecords::new(paths.clone()).uids()?;
        uids.into_iter().try_for_each(|uid| changes.add_pod(uid))?;
        Ok(changes)
    }

    fn add_pod(&mut self, uid: String) -> anyhow::Result<()> {
        let dir = self.pods_dir.join(&uid);
        let flags = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
        if let Some(watch) = add(&self.inotify, &dir, flags)? {
            self.each.insert(watch, uid);
        }
        Ok(())
    }

    /// Waits for the next change, or until one of `others` is readable.
    ///
    /// # Errors
    /// If the kernel returns an error.
    pub fn wait(&mut self, deadline: Option<Instant>, others: &[BorrowedFd<'_>]) -> anyhow::Result<Changed> {
        loop {
            let changed = self.take()?;
            if !matches!(&changed, Changed::Pods(uids) if uids.is_empty()) {
                return Ok(changed);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Changed::Nothing);
            }
            let timeout = match left {
                // Add a millisecond because the timeout is rounded down: the deadline must have passed.
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut fds = vec![PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)));
            match nix::poll::poll(&mut fds, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno).context("cannot wait for changes of Pods"),
            }
            if fds.iter().skip(1).any(|fd| fd.any().unwrap_or(false)) {
                return Ok(Changed::Other);
            }
        }
    }

    /// Waits for the next change without blocking the thread. Cancel safe.
    ///
    /// # Errors
    /// If the kernel returns an error.
    pub async fn next(&mut self) -> anyhow::Result<Changed> {
        let wait = "cannot wait for changes of Pods";
        let inotify = self.inotify.as_fd().try_clone_to_owned().context(wait)?;
        // SAFETY: an `OwnedFd` refers to the same open file while it lives, and the `AsyncFd` owns it.
        let events = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) };
        let events = events.map_err(std::io::Error::from).context(wait)?;
        loop {
            let changed = self.take()?;
            if !matches!(&changed, Changed::Pods(uids) if uids.is_empty()) {
                return Ok(changed);
            }
            events.readable().await.context(wait)?.clear_ready();
        }
    }

    /// Returns the changes since the last call without waiting.
    fn take(&mut self) -> anyhow::Result<Changed> {
        let mut uids = BTreeSet::new();
        let mut everything = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(errno).context("cannot read changes of Pods"),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    everything = true;
                } else if event.wd == self.pods {
                    let Some(uid) = event.name.and_then(|name| name.into_string().ok()) else {
                        continue;
                    };
                    if event
                        .mask
                        .intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO)
                    {
                        self.add_pod(uid.clone())?;
                    }
                    uids.insert(uid);
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.each.remove(&event.wd);
                } else if let Some(uid) = self.each.get(&event.wd) {
                    if event.name.as_deref().is_some_and(PodRecords::is_record_file) {
                        uids.insert(uid.clone());
                    }
                } else {
                    everything = true;
                }
            }
        }
        if everything {
            // Events for new directories may be among those lost.
            for entry in std::fs::read_dir(&self.pods_dir).into_iter().flatten().flatten() {
                if let Ok(uid) = entry.file_name().into_string() {
                    self.add_pod(uid)?;
                }
            }
            return Ok(Changed::Everything);
        }
        Ok(Changed::Pods(uids))
    }
}

/// Watches a directory; `None` if it is gone.
fn add(inotify: &Inotify, dir: &Path, flags: AddWatchFlags) -> anyhow::Result<Option<WatchDescriptor>> {
    match inotify.add_watch(dir, flags) {
        Ok(watch) => Ok(Some(watch)),
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno @ Errno::ENOSPC) => Err(errno).with_context(|| {
            format!(
                "cannot watch {}: fs.inotify.max_user_watches is reached (raise it with sysctl)",
                dir.display()
            )
        }),
        Err(errno) => Err(errno).with_context(|| format!("cannot watch {}", dir.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_pods::TestPods;
    use super::*;
    use crate::state::StatusRecord;

    fn soon() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(60))
    }

    fn uids(changed: Changed) -> Vec<String> {
        match changed {
            Changed::Pods(uids) => uids.into_iter().collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn added_changed_and_removed_pods_are_reported_by_uid() {
        let pods = TestPods::new();
        let uid = pods.add("a", &[]);
        let mut changes = Changes::of(&pods.paths).unwrap();
        assert_eq!(changes.wait(Some(Instant::now()), &[]).unwrap(), Changed::Nothing);
        pods.records.save_status(&uid, &StatusRecord::pending()).unwrap();
        assert_eq!(uids(changes.wait(soon(), &[]).unwrap()), [uid.as_str()]);
        let other = pods.add("b", &[]);
        assert_eq!(uids(changes.wait(soon(), &[]).unwrap()), [other.as_str()]);
        pods.records.save_status(&other, &StatusRecord::pending()).unwrap();
        assert_eq!(uids(changes.wait(soon(), &[]).unwrap()), [other.as_str()]);
        pods.records.remove(&uid).unwrap();
        assert_eq!(uids(changes.wait(soon(), &[]).unwrap()), [uid.as_str()]);
        assert!(matches!(
            changes.wait(Some(Instant::now()), &[]).unwrap(),
            Changed::Nothing | Changed::Pods(_)
        ));
    }

    #[tokio::test]
    async fn changes_are_received_asynchronously_and_survive_a_cancelled_wait() {
        let pods = TestPods::new();
        let uid = pods.add("a", &[]);
        let mut changes = Changes::of(&pods.paths).unwrap();
        assert!(futures::poll!(std::pin::pin!(changes.next())).is_pending());
        pods.records.save_status(&uid, &StatusRecord::pending()).unwrap();
        assert_eq!(uids(changes.next().await.unwrap()), [uid.as_str()]);
        let (changed, ()) = tokio::join!(changes.next(), async {
            tokio::task::yield_now().await;
            pods.records.save_status(&uid, &StatusRecord::pending()).unwrap();
        });
        assert_eq!(uids(changed.unwrap()), [uid.as_str()]);
    }

    #[test]
    fn files_other_than_records_are_ignored() {
        let pods = TestPods::new();
        let uid = pods.add("a", &[]);
        let mut changes = Changes::of(&pods.paths).unwrap();
        crate::state::replace_file(&pods.paths.pod_state(&uid).join("lifecycle.json"), b"{}").unwrap();
        assert_eq!(changes.wait(Some(Instant::now()), &[]).unwrap(), Changed::Nothing);
    }

    #[test]
    fn another_descriptor_ends_the_wait() {
        let pods = TestPods::new();
        let mut changes = Changes::of(&pods.paths).unwrap();
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        drop(theirs);
        assert_eq!(changes.wait(soon(), &[ours.as_fd()]).unwrap(), Changed::Other);
    }
}
