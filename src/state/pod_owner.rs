//! How Pods come and go, and who owns one: whoever holds the lock in its run directory.

use std::path::{Path, PathBuf};

use super::paths::create_private_dir;
use super::pod_record::PodRecord;
use super::pod_records::{PodRecords, RECORD_FILE, RecordsError};
use super::record::{self, LockedFile, RecordError};

const LOCK_FILE: &str = "lock";

impl PodRecords {
    /// Creates the record of a new Pod. The returned lock says that the Pod has an owner; whoever owns the Pod keeps it.
    ///
    /// # Errors
    /// [`RecordsError::AlreadyExists`] when a Pod of that namespace and name has an owner, [`RecordsError::MayExist`] when that cannot
    /// be known.
    pub fn create(&self, record: &PodRecord) -> Result<LockedFile, RecordsError> {
        self.paths.create()?;
        let _all = self.lock_set()?;
        let (others, mut damaged) = self.list_all()?;
        for other in others {
            let is_same = other.namespace == record.namespace && other.name == record.name;
            if is_same && (other.detached || !self.is_abandoned(&other.uid)?) {
                return Err(RecordsError::AlreadyExists(
                    record.name.clone(),
                    record.namespace.clone(),
                ));
            }
        }
        if let Some(error) = damaged.pop() {
            return Err(RecordsError::MayExist(record.name.clone(), Box::new(error)));
        }
        let made = self.make(record);
        if made.is_err() {
            // What of it cannot be removed either is left to the sweep; why nothing could be made is more to the point.
            let _ = self
                .remove_content(&record.uid)
                .and_then(|()| self.remove_dirs(&record.uid));
        }
        made
    }

    /// Makes the directories and the record of a Pod.
    fn make(&self, record: &PodRecord) -> Result<LockedFile, RecordsError> {
        for dir in [self.paths.pod_state(&record.uid), self.paths.pod_run(&record.uid)] {
            create_private_dir(&dir).map_err(|source| RecordsError::Io {
                action: "create",
                path: dir,
                source,
            })?;
        }
        let lock = record::lock_exclusive(&self.lock_path(&record.uid))?;
        if !record.detached {
            // Before the record: file systems keep the order in which names appear, not when content does.
            let path = self.attached_path(&record.uid);
            std::fs::write(&path, "").map_err(|source| RecordsError::Io {
                action: "create",
                path,
                source,
            })?;
        }
        self.save(record)?;
        if record.detached {
            // Its directory is to be there after a power cut, too.
            record::sync_dir(&self.paths.pods())?;
        }
        Ok(lock)
    }

    /// Whether a Pod has no owner any more: neither the process that created it nor its supervisor lives.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn is_abandoned(&self, uid: &str) -> Result<bool, RecordsError> {
        // Looks without making anything: the Pod may be removed by its owner at this moment.
        if !self.lock_path(uid).exists() {
            return Ok(true);
        }
        match record::try_lock_exclusive(&self.lock_path(uid)) {
            Ok(lock) => Ok(lock.is_some()),
            Err(RecordError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Becomes the owner of an abandoned Pod; `None` while it has one, and when nothing is left of it.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn claim(&self, uid: &str) -> Result<Option<LockedFile>, RecordsError> {
        self.paths.create()?;
        // A Pod that is being created has directories before it has an owner, one that is being removed has them a little longer.
        let _all = self.lock_set()?;
        let dir = self.paths.pod_run(uid);
        if !dir.exists() && !self.paths.pod_state(uid).exists() {
            return Ok(None);
        }
        create_private_dir(&dir).map_err(|source| RecordsError::Io {
            action: "create",
            path: dir,
            source,
        })?;
        Ok(record::try_lock_exclusive(&self.lock_path(uid))?)
    }

    /// Removes a Pod's directories with all they contain. The caller owns the Pod.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn remove(&self, uid: &str) -> Result<(), RecordsError> {
        // Without the lock of the set: the Pod's disk may be large.
        self.remove_content(uid)?;
        let _all = self.lock_set()?;
        self.remove_dirs(uid)
    }

    /// Removes what a Pod has on disk. The record goes first: a removal that is cut off then leaves nobody's files, and not a Pod that has
    /// forgotten that it was deleted and starts anew, or is not hidden any more.
    fn remove_content(&self, uid: &str) -> Result<(), RecordsError> {
        let state = self.paths.pod_state(uid);
        let record = state.join(RECORD_FILE);
        gone(std::fs::remove_file(&record), &record)?;
        let entries = match std::fs::read_dir(&state) {
            Ok(entries) => entries,
            Err(error) => return gone(Err(error), &state),
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let removed = if is_dir {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            gone(removed, &path)?;
        }
        Ok(())
    }

    /// Removes a Pod's directories, by who holds the lock of the set. The run directory, with the Pod's lock, goes last: as long as
    /// anything is left, the sweep finds it.
    fn remove_dirs(&self, uid: &str) -> Result<(), RecordsError> {
        for path in [self.paths.pod_state(uid), self.paths.pod_run(uid)] {
            gone(std::fs::remove_dir_all(&path), &path)?;
        }
        Ok(())
    }

    /// Held by whoever adds a Pod, removes one, or takes one over, for as long as that takes.
    fn lock_set(&self) -> Result<LockedFile, RecordsError> {
        Ok(record::lock_exclusive(&self.paths.run_dir().join("pods.lock"))?)
    }

    fn lock_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_run(uid).join(LOCK_FILE)
    }
}

/// What a removal comes to: that there was nothing is no failure.
fn gone(removed: std::io::Result<()>, path: &Path) -> Result<(), RecordsError> {
    match removed {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(RecordsError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
