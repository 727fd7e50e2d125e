//! Creation, removal and ownership of Pods. The owner of a Pod is the process that holds the lock in its run directory.
//!
//! The run directory itself is locked while the Pod, as others see it, changes: its record, its status, whether it is
//! hidden.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use microkube_base::file_lock::{self, Sharing};
use microkube_base::private_directory;

use super::pod_record::PodRecord;
use super::pod_records::{PodRecords, RECORD_FILE, RecordsError};
use super::record::{self, LockedFile, RecordError};

const LOCK_FILE: &str = "lock";

/// How long a change waits for a reader. Reading takes milliseconds, unless the reader is stopped.
const READER_LIMIT: Duration = Duration::from_secs(5);

impl PodRecords {
    /// Creates the record of a new Pod. The returned lock makes its holder the Pod's owner.
    ///
    /// # Errors
    /// [`RecordsError::AlreadyExists`] if a Pod with that namespace and name has an owner, [`RecordsError::MayExist`]
    /// if that is unknown.
    pub fn create(&self, record: &PodRecord) -> Result<LockedFile, RecordsError> {
        self.create_with(&mut record.clone(), |_| {})
    }

    /// Creates the record of a new Pod like [`Self::create`]. `complete` changes the record just before it is written,
    /// while no reader sees it.
    ///
    /// # Errors
    /// See [`Self::create`].
    pub fn create_with(
        &self,
        record: &mut PodRecord,
        complete: impl FnOnce(&mut PodRecord),
    ) -> Result<LockedFile, RecordsError> {
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
        let made = self.make(record, complete);
        if made.is_err() {
            // The sweep removes what cannot be removed here; the first error is more relevant.
            let _ = self
                .remove_content(&record.uid)
                .and_then(|()| self.remove_dirs(&record.uid));
        }
        made
    }

    /// Creates the directories and the record of a Pod.
    fn make(&self, record: &mut PodRecord, complete: impl FnOnce(&mut PodRecord)) -> Result<LockedFile, RecordsError> {
        for dir in [self.paths.pod_state(&record.uid), self.paths.pod_run(&record.uid)] {
            private_directory::create(&dir).map_err(|source| RecordsError::Io {
                action: "create",
                path: dir,
                source,
            })?;
        }
        let lock = record::lock_exclusive(&self.lock_path(&record.uid))?;
        if !record.detached {
            // Create this file before the record: file systems preserve the order of names, but not of content.
            let path = self.attached_path(&record.uid);
            std::fs::write(&path, "").map_err(|source| RecordsError::Io {
                action: "create",
                path,
                source,
            })?;
        }
        let changing = self.lock_change(&record.uid)?;
        complete(record);
        self.save(record)?;
        drop(changing);
        if record.detached {
            // The Pod's directory must survive a power cut, too.
            record::sync_dir(&self.paths.pods())?;
        }
        Ok(lock)
    }

    /// Whether a Pod has lost its owner: both the process that created it and its supervisor have ended.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn is_abandoned(&self, uid: &str) -> Result<bool, RecordsError> {
        // Do not create anything here: the owner may be removing the Pod right now.
        if !self.lock_path(uid).exists() {
            return Ok(true);
        }
        match record::try_lock_exclusive(&self.lock_path(uid)) {
            Ok(lock) => Ok(lock.is_some()),
            Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Becomes the owner of an abandoned Pod; `None` if it has an owner, or is gone.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn claim(&self, uid: &str) -> Result<Option<LockedFile>, RecordsError> {
        self.paths.create()?;
        // A Pod has directories but no owner for a moment while it is being created, and again while it is being
        // removed.
        let _all = self.lock_set()?;
        let dir = self.paths.pod_run(uid);
        if !dir.exists() && !self.paths.pod_state(uid).exists() {
            return Ok(None);
        }
        private_directory::create(&dir).map_err(|source| RecordsError::Io {
            action: "create",
            path: dir,
            source,
        })?;
        Ok(record::try_lock_exclusive(&self.lock_path(uid))?)
    }

    /// Waits until no reader looks at the Pod, and keeps readers waiting. `None` if the Pod has no run directory, or if a
    /// reader does not end: a stopped reader must not stop a Pod. It then may see a change early, or not at all.
    ///
    /// # Errors
    /// [`RecordsError::Io`].
    pub fn lock_change(&self, uid: &str) -> Result<Option<LockedFile>, RecordsError> {
        let path = self.paths.pod_run(uid);
        let lock = || {
            let Some(directory) = opened(&path)? else {
                return Ok(None);
            };
            let lock = file_lock::lock_open_within(directory.into(), Sharing::Exclusive, READER_LIMIT)?;
            if lock.is_none() {
                let limit_s = READER_LIMIT.as_secs();
                tracing::warn!("changing Pod {uid} although another process has been reading it for {limit_s} s");
            }
            Ok(lock)
        };
        lock().map_err(|source| RecordsError::Io {
            action: "lock",
            path: path.clone(),
            source,
        })
    }

    /// Calls `read` while the Pod does not change. `None` if it is being changed, unless this `waits`.
    ///
    /// # Errors
    /// [`RecordsError::Io`], and those of `read`.
    pub fn read_unchanging<T>(
        &self,
        uid: &str,
        waits: bool,
        read: impl FnOnce() -> Result<T, RecordsError>,
    ) -> Result<Option<T>, RecordsError> {
        let path = self.paths.pod_run(uid);
        let error = |source| RecordsError::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        // A Pod without this directory has no owner, so nothing changes it.
        let Some(directory) = opened(&path).map_err(error)? else {
            return read().map(Some);
        };
        let lock = match waits {
            true => file_lock::lock_open(directory.into(), Sharing::Shared).map(Some),
            false => file_lock::try_lock_open(directory.into(), Sharing::Shared),
        };
        match lock.map_err(error)? {
            Some(_lock) => read().map(Some),
            None => Ok(None),
        }
    }

    /// Removes a Pod's record: readers find no Pod any more. [`Self::remove`] removes the rest.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn remove_record(&self, uid: &str) -> Result<(), RecordsError> {
        let record = self.paths.pod_state(uid).join(RECORD_FILE);
        gone(std::fs::remove_file(&record), &record)
    }

    /// Removes a Pod's directories with their content. The caller owns the Pod.
    ///
    /// # Errors
    /// [`RecordsError`].
    pub fn remove(&self, uid: &str) -> Result<(), RecordsError> {
        // Do this without the global lock: the Pod's disk may be large.
        self.remove_content(uid)?;
        let _all = self.lock_set()?;
        self.remove_dirs(uid)
    }

    /// Removes a Pod's files. The record goes first: an interrupted removal then leaves files without a Pod, rather
    /// than a Pod that has lost its deletion or its hidden mark and starts again.
    fn remove_content(&self, uid: &str) -> Result<(), RecordsError> {
        let state = self.paths.pod_state(uid);
        self.remove_record(uid)?;
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

    /// Removes a Pod's directories. The caller holds the global lock. The run directory, with the Pod's lock, goes
    /// last: the sweep finds the Pod while anything is left.
    fn remove_dirs(&self, uid: &str) -> Result<(), RecordsError> {
        for path in [self.paths.pod_state(uid), self.paths.pod_run(uid)] {
            gone(std::fs::remove_dir_all(&path), &path)?;
        }
        Ok(())
    }

    /// The global lock, held while a Pod is added, removed or taken over.
    fn lock_set(&self) -> Result<LockedFile, RecordsError> {
        Ok(record::lock_exclusive(&self.paths.run_dir().join("pods.lock"))?)
    }

    fn lock_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_run(uid).join(LOCK_FILE)
    }
}

/// Opens a directory; `None` if it does not exist.
fn opened(directory: &Path) -> io::Result<Option<File>> {
    match File::open(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// The result of a removal. A missing file is not an error.
fn gone(removed: io::Result<()>, path: &Path) -> Result<(), RecordsError> {
    match removed {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RecordsError::Io {
            action: "remove",
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}
