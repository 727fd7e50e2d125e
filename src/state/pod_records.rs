//! The records of all Pods of this host: which there are, and what they say. Who owns a Pod is `pod_owner`'s.

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
    /// Another Pod has the name.
    #[error("pods {0:?} already exists in namespace {1:?}; delete or end it first, or choose another name")]
    AlreadyExists(String, String),
    /// A Pod may have the name, but what its record says cannot be known.
    #[error("cannot tell whether there is a pod {0:?}")]
    MayExist(String, #[source] Box<Self>),
    /// A directory cannot be made.
    #[error(transparent)]
    Paths(#[from] PathsError),
    /// A record cannot be read or written.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// A directory cannot be read or removed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

impl RecordsError {
    /// The file or directory that it is about.
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

    /// The file whose content is not what was written there.
    #[must_use]
    pub fn damaged_path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Record(error) => error.damaged_path(),
            Self::MayExist(_, error) => error.damaged_path(),
            Self::AlreadyExists(..) | Self::Paths(_) | Self::Io { .. } => None,
        }
    }

    /// The file that a newer microkube wrote.
    #[must_use]
    pub fn newer_path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Record(error) => error.newer_path(),
            Self::MayExist(_, error) => error.newer_path(),
            Self::AlreadyExists(..) | Self::Paths(_) | Self::Io { .. } => None,
        }
    }
}

/// All Pods of this host.
#[derive(Debug, Clone)]
pub struct PodRecords {
    pub(super) paths: Paths,
}

pub(super) const RECORD_FILE: &str = "pod.json";
const STATUS_FILE: &str = "status.json";
const EVENTS_FILE: &str = "events.json";
/// Says that a Pod was deleted by force: to everybody but its owner there is no such Pod any more.
const HIDDEN_FILE: &str = "hidden";

/// In the state directory of a Pod that ends with its command line, and so with the host. Nothing waits for the disk to have its records:
/// after a power cut they may be torn, and are then taken for what is left of a Pod that is gone.
const ATTACHED_FILE: &str = "attached";

impl PodRecords {
    /// The records below `paths`.
    #[must_use]
    pub fn new(paths: Paths) -> Self {
        Self { paths }
    }

    /// What says that a Pod ends with its command line.
    pub(super) fn attached_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_state(uid).join(ATTACHED_FILE)
    }

    /// How long the records of a Pod are to last.
    #[must_use]
    pub fn lifetime(&self, uid: &str) -> Lifetime {
        if self.attached_path(uid).exists() {
            Lifetime::Boot
        } else {
            Lifetime::Pod
        }
    }

    /// What was read of a Pod: nothing, where a power cut has torn what was not to survive it.
    fn unless_torn<T>(&self, uid: &str, read: Result<Option<T>, RecordError>) -> Result<Option<T>, RecordsError> {
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

    /// Makes the Pod one that there is not, to all that read records, and its name free. Whoever owns it goes on ending it. To be called by its
    /// owner, who is there to do so, or whose death the sweep notices.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn hide(&self, uid: &str) -> Result<(), RecordsError> {
        match record::replace_file(&self.paths.pod_state(uid).join(HIDDEN_FILE), b"") {
            // Gone already.
            Err(RecordError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
            hidden => Ok(hidden?),
        }
    }

    /// Whether the Pod was hidden, and only its owner has to do with it.
    #[must_use]
    pub fn is_hidden(&self, uid: &str) -> bool {
        self.paths.pod_state(uid).join(HIDDEN_FILE).exists()
    }

    /// Whether nothing is left of the Pod but what its owner may still have to release.
    #[must_use]
    pub fn is_gone(&self, uid: &str) -> bool {
        self.is_hidden(uid) || !self.paths.pod_state(uid).exists()
    }

    /// The record of one Pod, unless it is hidden.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn visible(&self, uid: &str) -> Result<Option<PodRecord>, RecordsError> {
        if self.is_hidden(uid) {
            return Ok(None);
        }
        self.get(uid)
    }

    /// The record of one Pod, for its owner.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn get(&self, uid: &str) -> Result<Option<PodRecord>, RecordsError> {
        self.unless_torn(uid, record::read_record(&self.paths.pod_state(uid).join(RECORD_FILE)))
    }

    /// What the supervisor has made known of a Pod; `None` as long as it has not, and once the Pod is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn status(&self, uid: &str) -> Result<Option<StatusRecord>, RecordsError> {
        self.unless_torn(uid, record::read_record(&self.paths.pod_state(uid).join(STATUS_FILE)))
    }

    /// Replaces what is known of a Pod.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn save_status(&self, uid: &str, status: &StatusRecord) -> Result<(), RecordsError> {
        let path = self.paths.pod_state(uid).join(STATUS_FILE);
        Ok(record::replace_record_for(self.lifetime(uid), &path, status)?)
    }

    /// A Pod's events; none of one that is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn events(&self, uid: &str) -> Result<Vec<EventRecord>, RecordsError> {
        let events = self.unless_torn(uid, event_log::read(&self.events_path(uid)).map(Some))?;
        Ok(events.unwrap_or_default())
    }

    /// Whether this build may act on a Pod: fails if any of its records was written by a newer one, which may have given the Pod what this one
    /// knows nothing of.
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

    /// Where a Pod's [`super::EventLog`] lies.
    #[must_use]
    pub fn events_path(&self, uid: &str) -> PathBuf {
        self.paths.pod_state(uid).join(EVENTS_FILE)
    }

    /// The names of the files in a Pod's state directory that say what the Pod is and how it does.
    #[must_use]
    pub fn is_record_file(name: &std::ffi::OsStr) -> bool {
        [RECORD_FILE, STATUS_FILE, EVENTS_FILE, HIDDEN_FILE]
            .iter()
            .any(|file| name == *file)
    }

    /// The Pod of this name.
    ///
    /// # Errors
    /// [`RecordsError::MayExist`] when a record cannot be read, if the Pod is not among the others.
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

    /// All records, and why those are missing that cannot be read. A Pod that is hidden or goes away meanwhile is in neither.
    ///
    /// # Errors
    /// [`RecordsError::Io`] when the directory cannot be read.
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

    /// UIDs of all Pods of which there is a directory, with or without a readable record.
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
                // Whatever else lies there is nobody's Pod.
                let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if let (true, Ok(name)) = (is_dir, entry.file_name().into_string()) {
                    uids.insert(name);
                }
            }
        }
        Ok(uids.into_iter().collect())
    }

    /// All records that can be read. Of others there is a warning.
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
