//! The records of all Pods on this host. `pod_owner` handles their ownership.

use std::io;
use std::path::PathBuf;

use microkube_base::causes::with_causes;

use super::event_log::{self, EventRecord};
use super::format_version::POD_RECORDS_VERSION;
use super::paths::{Paths, PathsError};
use super::pod_record::PodRecord;
use super::record::{self, Lifetime, RecordError};
use super::status_record::StatusRecord;

/// A set of records could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// Another Pod has this namespace and name.
    #[error("pods {0:?} already exists in namespace {1:?}; delete it first, or choose another name")]
    AlreadyExists(String, String),
    /// A Pod may have this name, but its record cannot be read.
    #[error("cannot tell whether pod {0:?} exists")]
    MayExist(String, #[source] Box<Self>),
    /// A directory could not be created.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// A record could not be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A directory could not be read or removed.
    #[error("cannot {action} {path}")]
    Io {
        /// The operation that failed.
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl RecordsError {
    /// The file or directory that the error is about.
    #[must_use]
    pub fn path(&self) -> Option<&std::path::Path> {
        match self {
            Self::AlreadyExists(..) => None,
            Self::MayExist(_, error) => error.path(),
            Self::Paths(error) => Some(error.path()),
            Self::Record(error) => Some(error.path()),
            Self::Io { path, .. } => Some(path),
        }
    }

    /// The damaged file, if that is the error.
    #[must_use]
    pub fn damaged_path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Record(error) => error.damaged_path(),
            Self::MayExist(_, error) => error.damaged_path(),
            Self::AlreadyExists(..) | Self::Paths(_) | Self::Io { .. } => None,
        }
    }

    /// The file of a newer microkube, if that is the error.
    #[must_use]
    pub fn newer_path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Record(error) => error.newer_path(),
            Self::MayExist(_, error) => error.newer_path(),
            Self::AlreadyExists(..) | Self::Paths(_) | Self::Io { .. } => None,
        }
    }
}

/// The records of all Pods on this host.
#[derive(Debug, Clone)]
pub struct PodRecords {
    pub(super) paths: Paths,
}

pub(super) const RECORD_FILE: &str = "pod.json";
const STATUS_FILE: &str = "status.json";
const EVENTS_FILE: &str = "events.json";
/// Marks a Pod as deleted by force: only its owner still sees it.
const HIDDEN_FILE: &str = "hidden";

/// Marks a Pod that ends with its command line, and so at the latest with the host. Its records are not synced: after a
/// power cut they may be torn, and then count as the remains of a Pod that is gone.
const ATTACHED_FILE: &str = "attached";

impl PodRecords {
    /// The records below `paths`.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// The mark of a Pod that ends with its command line.
    pub(super) fn attached_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_state(uid).join(ATTACHED_FILE)
    }

    /// How durable a Pod's records must be.
    #[must_use]
    pub fn lifetime(&self, uid: &str) -> Lifetime {
        if self.attached_path(uid).exists() {
            Lifetime::Boot
        } else {
            Lifetime::Pod
        }
    }

    /// Treats a torn record as missing, if it did not have to survive a power cut.
    fn ignore_torn<T>(&self, uid: &str, read: Result<Option<T>, RecordError>) -> Result<Option<T>, RecordsError> {
        match read {
            Err(error) if error.damaged_path().is_some() && self.lifetime(uid) == Lifetime::Boot => Ok(None),
            read => Ok(read?),
        }
    }

    /// Replaces a Pod's record.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn save(&self, record: &PodRecord) -> Result<(), RecordsError> {
        let lifetime = self.lifetime(&record.uid);
        let path = self.paths.pod_state(&record.uid).join(RECORD_FILE);
        Ok(record::replace_record_for(lifetime, &path, record)?)
    }

    /// Hides the Pod from all readers of records, and frees its name. Only the owner may call this: it then ends the
    /// Pod, or the sweep does if the owner dies.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn hide(&self, uid: &str) -> Result<(), RecordsError> {
        match record::replace_file(&self.paths.pod_state(uid).join(HIDDEN_FILE), b"") {
            // The Pod is already gone.
            Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            hidden => Ok(hidden?),
        }
    }

    /// Whether the Pod was hidden, so only its owner still handles it.
    #[must_use]
    pub fn is_hidden(&self, uid: &str) -> bool {
        self.paths.pod_state(uid).join(HIDDEN_FILE).exists()
    }

    /// Whether the Pod is gone, except for resources that its owner may still have to release.
    #[must_use]
    pub fn is_gone(&self, uid: &str) -> bool {
        self.is_hidden(uid) || !self.paths.pod_state(uid).exists()
    }

    /// The record of a Pod, unless it is hidden.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn visible(&self, uid: &str) -> Result<Option<PodRecord>, RecordsError> {
        if self.is_hidden(uid) {
            return Ok(None);
        }
        self.get(uid)
    }

    /// The record of a Pod, for its owner.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn get(&self, uid: &str) -> Result<Option<PodRecord>, RecordsError> {
        self.ignore_torn(uid, record::read_record(&self.paths.pod_state(uid).join(RECORD_FILE)))
    }

    /// A Pod's status; `None` until its supervisor has written one, and once the Pod is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn status(&self, uid: &str) -> Result<Option<StatusRecord>, RecordsError> {
        self.ignore_torn(uid, record::read_record(&self.paths.pod_state(uid).join(STATUS_FILE)))
    }

    /// Replaces a Pod's status.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn save_status(&self, uid: &str, status: &StatusRecord) -> Result<(), RecordsError> {
        let path = self.paths.pod_state(uid).join(STATUS_FILE);
        Ok(record::replace_record_for(self.lifetime(uid), &path, status)?)
    }

    /// A Pod's events; empty if the Pod is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn events(&self, uid: &str) -> Result<Vec<EventRecord>, RecordsError> {
        let events = self.ignore_torn(uid, event_log::read(&self.events_path(uid)).map(Some))?;
        Ok(events.unwrap_or_default())
    }

    /// Checks that this build may act on a Pod: fails if a newer build wrote any of its records, because the Pod may
    /// then have resources that this build does not support.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn refuse_newer(&self, uid: &str) -> Result<(), RecordsError> {
        let path = self.paths.pod_state(uid);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(RecordsError::Io {
                    action: "read",
                    path,
                    source,
                });
            }
        };
        for entry in entries.flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "json") {
                record::refuse_newer(&entry.path(), POD_RECORDS_VERSION)?;
            }
        }
        Ok(())
    }

    /// Path of a Pod's [`super::EventLog`].
    #[must_use]
    pub fn events_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_state(uid).join(EVENTS_FILE)
    }

    /// Whether a file in a Pod's state directory is one of its records.
    #[must_use]
    pub fn is_record_file(name: &std::ffi::OsStr) -> bool {
        [RECORD_FILE, STATUS_FILE, EVENTS_FILE, HIDDEN_FILE]
            .iter()
            .any(|file| name == *file)
    }

    /// The Pod with this name.
    ///
    /// # Errors
    /// [`RecordsError::MayExist`] if some record cannot be read and the Pod is not among the others.
    pub fn find(&self, namespace: &str, name: &str) -> Result<Option<PodRecord>, RecordsError> {
        let (records, mut damaged) = self.list_all()?;
        let found = records
            .into_iter()
            .find(|record| record.namespace == namespace && record.name == name);
        match (found, damaged.pop()) {
            (None, Some(error)) => Err(RecordsError::MayExist(name.to_owned(), Box::new(error))),
            (found, _) => Ok(found),
        }
    }

    /// All readable records, and the errors for the others. A Pod that is hidden or disappears meanwhile is in neither.
    ///
    /// # Errors
    /// [`RecordsError::Io`] if the directory cannot be read.
    pub fn list_all(&self) -> Result<(Vec<PodRecord>, Vec<RecordsError>), RecordsError> {
        let (mut records, mut damaged) = (Vec::new(), Vec::new());
        for uid in self.uids()? {
            match self.visible(&uid) {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) => damaged.push(error),
            }
        }
        Ok((records, damaged))
    }

    /// UIDs of all Pods that have a directory, with or without a readable record.
    ///
    /// # Errors
    /// [`RecordsError::Io`].
    pub fn uids(&self) -> Result<Vec<String>, RecordsError> {
        let mut uids = std::collections::BTreeSet::new();
        for path in [self.paths.pods(), self.paths.run_dir().join("pods")] {
            let entries = match std::fs::read_dir(&path) {
                Ok(entries) => entries,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(RecordsError::Io {
                        action: "read",
                        path,
                        source,
                    });
                }
            };
            for entry in entries {
                let entry = entry.map_err(|source| RecordsError::Io {
                    action: "read",
                    path: path.clone(),
                    source,
                })?;
                // Ignore anything else in the directory.
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let (true, Ok(name)) = (is_dir, entry.file_name().into_string()) {
                    uids.insert(name);
                }
            }
        }
        Ok(uids.into_iter().collect())
    }

    /// All readable records. Logs a warning for each of the others.
    ///
    /// # Errors
    /// [`RecordsError::Io`].
    pub fn list(&self) -> Result<Vec<PodRecord>, RecordsError> {
        let (records, damaged) = self.list_all()?;
        for error in damaged {
            tracing::warn!("{}", with_causes(&error));
        }
        Ok(records)
    }
}

#[cfg(test)]
mod tests;
