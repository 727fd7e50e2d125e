//! The records of all Pods of this host: which there are, who owns them, how they come and go.

use std::path::{Path, PathBuf};

use super::event_log::{self, EventRecord};
use super::pod_record::PodRecord;
use super::record::{self, Lifetime, LockedFile, RecordError};
use super::status_record::StatusRecord;
use super::{Paths, PathsError};

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
    /// The file whose content is not what was written there.
    #[must_use]
    pub fn damaged_path(&self) -> Option<&std::path::Path> {
        match self {
            Self::Record(error) => error.damaged_path(),
            Self::MayExist(_, error) => error.damaged_path(),
            Self::AlreadyExists(..) | Self::Paths(_) | Self::Io { .. } => None,
        }
    }
}

/// All Pods of this host.
#[derive(Debug, Clone)]
pub struct PodRecords {
    paths: Paths,
}

const RECORD_FILE: &str = "pod.json";
const STATUS_FILE: &str = "status.json";
const EVENTS_FILE: &str = "events.json";
const LOCK_FILE: &str = "lock";
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
            super::paths::create_private_dir(&dir).map_err(|source| RecordsError::Io {
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

    fn attached_path(&self, uid: &str) -> PathBuf {
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
        Ok(record::replace_json_for(lifetime, &path, record)?)
    }

    /// Makes the Pod one that there is not, to all that read records, and its name free. Whoever owns it goes on ending it. To be called by its
    /// owner, who is there to do so, or whose death the sweep notices.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn hide(&self, uid: &str) -> Result<(), RecordsError> {
        Ok(record::replace_file(&self.paths.pod_state(uid).join(HIDDEN_FILE), b"")?)
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
        self.unless_torn(uid, record::read_json(&self.paths.pod_state(uid).join(RECORD_FILE)))
    }

    /// What the supervisor has made known of a Pod; `None` as long as it has not, and once the Pod is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn status(&self, uid: &str) -> Result<Option<StatusRecord>, RecordsError> {
        self.unless_torn(uid, record::read_json(&self.paths.pod_state(uid).join(STATUS_FILE)))
    }

    /// Replaces what is known of a Pod.
    ///
    /// # Errors
    /// [`RecordsError::Record`].
    pub fn save_status(&self, uid: &str, status: &StatusRecord) -> Result<(), RecordsError> {
        let path = self.paths.pod_state(uid).join(STATUS_FILE);
        Ok(record::replace_json_for(self.lifetime(uid), &path, status)?)
    }

    /// A Pod's events; none of one that is gone.
    ///
    /// # Errors
    /// [`RecordsError::Record`] names the file.
    pub fn events(&self, uid: &str) -> Result<Vec<EventRecord>, RecordsError> {
        let events = self.unless_torn(uid, event_log::read(&self.events_path(uid)).map(Some))?;
        Ok(events.unwrap_or_default())
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
            tracing::warn!("{:#}", anyhow::Error::from(error));
        }
        Ok(records)
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
        super::paths::create_private_dir(&dir).map_err(|source| RecordsError::Io {
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

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn record(uid: &str, name: &str) -> PodRecord {
        PodRecord {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: name.to_owned(),
            pod: Pod::default(),
            pull_secrets: Vec::new(),
            detached: false,
            released: false,
            client: None,
            supervisor: None,
            vmm: None,
        }
    }

    fn records() -> (tempfile::TempDir, PodRecords) {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        (dir, PodRecords::new(paths))
    }

    #[test]
    fn a_second_pod_of_the_same_name_is_refused_while_the_first_has_an_owner() {
        let (_dir, records) = records();
        let lock = records.create(&record("u1", "web")).unwrap();
        let error = records.create(&record("u2", "web")).unwrap_err();
        assert!(matches!(error, RecordsError::AlreadyExists(..)), "{error}");
        drop(lock);
        records.create(&record("u3", "web")).unwrap();
    }

    #[test]
    fn an_abandoned_pod_can_be_claimed_and_removed_without_a_trace() {
        let (dir, records) = records();
        let lock = records.create(&record("u1", "web")).unwrap();
        assert!(records.claim("u1").unwrap().is_none());
        drop(lock);
        let claimed = records.claim("u1").unwrap();
        assert!(claimed.is_some());
        records.remove("u1").unwrap();
        assert_eq!(records.uids().unwrap(), Vec::<String>::new());
        assert!(!dir.path().join("state/pods/u1").exists());
    }

    #[test]
    fn the_record_is_the_first_thing_of_a_pod_that_is_removed() {
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

        let (dir, records) = records();
        let _lock = records.create(&record("u1", "web")).unwrap();
        let state = dir.path().join("state/pods/u1");
        for number in 0..30 {
            std::fs::write(state.join(format!("{number}.json")), "").unwrap();
        }
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        inotify.add_watch(&state, AddWatchFlags::IN_DELETE).unwrap();
        records.remove("u1").unwrap();
        let removed = inotify.read_events().unwrap();
        assert_eq!(removed[0].name.as_deref(), Some(std::ffi::OsStr::new(RECORD_FILE)));
    }

    #[test]
    fn of_many_processes_that_create_one_name_exactly_one_wins() {
        let (_dir, records) = records();
        let won: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let records = records.clone();
                    scope.spawn(move || records.create(&record(&format!("u{n}"), "web")).ok())
                })
                .collect();
            threads
                .into_iter()
                .filter_map(|thread| thread.join().unwrap())
                .collect()
        });
        assert_eq!(won.len(), 1);
    }

    #[test]
    fn a_pod_that_is_being_created_or_removed_is_never_taken_over() {
        let (_dir, records) = records();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for uid in records.uids().unwrap() {
                            assert!(records.claim(&uid).unwrap().is_none(), "{uid} has an owner");
                        }
                    }
                });
            }
            let created: Result<(), RecordsError> = (0..300).try_for_each(|n| {
                let uid = format!("u{n}");
                let _lock = records.create(&record(&uid, &uid))?;
                records.save(&record(&uid, &uid))?;
                records.remove(&uid)
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            created.unwrap();
        });
    }

    #[test]
    fn an_ended_detached_pod_keeps_its_name_until_it_is_removed() {
        let (_dir, records) = records();
        let mut ended = record("u1", "web");
        ended.detached = true;
        drop(records.create(&ended).unwrap());
        assert!(matches!(
            records.create(&record("u2", "web")),
            Err(RecordsError::AlreadyExists(..))
        ));
        records.remove("u1").unwrap();
        records.create(&record("u2", "web")).unwrap();
    }

    #[test]
    fn a_hidden_pod_is_none_to_all_but_its_owner_and_its_name_is_free() {
        let (_dir, records) = records();
        let mut first = record("u1", "web");
        first.detached = true;
        let _owner = records.create(&first).unwrap();
        records.save_status("u1", &StatusRecord::pending()).unwrap();
        assert!(!records.is_gone("u1"));
        records.hide("u1").unwrap();

        assert!(records.is_hidden("u1") && records.is_gone("u1"));
        assert_eq!(records.find("default", "web").unwrap(), None);
        assert_eq!(records.visible("u1").unwrap(), None);
        let (found, damaged) = records.list_all().unwrap();
        assert!(found.is_empty() && damaged.is_empty(), "{found:?} {damaged:?}");
        let _other = records.create(&record("u2", "web")).unwrap();
        assert_eq!(records.find("default", "web").unwrap().unwrap().uid, "u2");

        // Its owner goes on with it, and so does who takes care of dead owners.
        records.save(&first).unwrap();
        records.save_status("u1", &StatusRecord::default()).unwrap();
        assert_eq!(records.get("u1").unwrap(), Some(first));
        assert_eq!(records.uids().unwrap(), ["u1", "u2"]);
        assert!(records.is_hidden("u1"));
        records.remove("u1").unwrap();
        assert!(records.is_gone("u1") && !records.is_hidden("u1"));
    }

    #[test]
    fn a_pod_without_a_status_or_events_has_none_and_one_that_vanished_is_no_error() {
        let (_dir, records) = records();
        let _lock = records.create(&record("u1", "web")).unwrap();
        assert_eq!(records.status("u1").unwrap(), None);
        assert_eq!(records.events("u1").unwrap(), []);
        records.save_status("u1", &StatusRecord::pending()).unwrap();
        assert_eq!(records.status("u1").unwrap(), Some(StatusRecord::pending()));
        records.remove("u1").unwrap();
        assert_eq!(records.status("u1").unwrap(), None);
        assert_eq!(records.find("default", "web").unwrap(), None);
        assert!(
            records.save_status("u1", &StatusRecord::pending()).is_err(),
            "a Pod that is gone is not brought back"
        );
    }

    #[test]
    fn nobody_waits_for_the_disk_to_have_the_records_of_a_pod_that_ends_with_its_command_line() {
        let (_dir, records) = records();
        let syncs_of = |uid: &str, detached: bool| {
            let before = record::SYNCS.get();
            let record = PodRecord {
                detached,
                ..record(uid, uid)
            };
            let lock = records.create(&record).unwrap();
            records.save(&record).unwrap();
            records.save_status(uid, &StatusRecord::pending()).unwrap();
            let log = event_log::EventLog::open(&records.events_path(uid)).unwrap();
            let mut log = log.lasting(records.lifetime(uid));
            log.add(false, "Pulled", "m", None, std::time::SystemTime::now())
                .unwrap();
            drop(lock);
            records.remove(uid).unwrap();
            record::SYNCS.get() - before
        };
        assert_eq!(syncs_of("attached", false), 0);
        // A file and its directory each, and the directory of all Pods.
        assert_eq!(syncs_of("detached", true), 9);
    }

    #[test]
    fn what_a_power_cut_tore_of_a_pod_that_ended_with_it_is_no_record_and_can_be_removed() {
        let (dir, records) = records();
        drop(records.create(&record("u1", "web")).unwrap());
        for file in [STATUS_FILE, EVENTS_FILE] {
            std::fs::write(dir.path().join("state/pods/u1").join(file), "").unwrap();
        }
        assert_eq!(records.status("u1").unwrap(), None);
        assert_eq!(records.events("u1").unwrap(), []);
        std::fs::write(dir.path().join("state/pods/u1/pod.json"), "").unwrap();
        assert_eq!(records.get("u1").unwrap(), None);
        // It is in nobody's way, and found by the sweep.
        let _lock = records.create(&record("u2", "web")).unwrap();
        assert_eq!(records.uids().unwrap(), ["u1", "u2"]);
        assert!(records.claim("u1").unwrap().is_some());
        records.remove("u1").unwrap();
        assert_eq!(records.uids().unwrap(), ["u2"]);
    }

    #[test]
    fn a_damaged_record_is_named_and_hides_no_other() {
        let (dir, records) = records();
        let detached = |name| PodRecord {
            detached: true,
            ..record(name, name)
        };
        let _locks = ["a", "b", "c"].map(|name| records.create(&detached(name)).unwrap());
        std::fs::write(dir.path().join("state/pods/b/pod.json"), "{").unwrap();
        let (found, damaged) = records.list_all().unwrap();
        let names: Vec<_> = found.iter().map(|record| record.name.as_str()).collect();
        assert_eq!(names, ["a", "c"]);
        let [error] = damaged.as_slice() else {
            panic!("{damaged:?}")
        };
        assert!(
            error.to_string().contains("state/pods/b/pod.json is damaged"),
            "{error}"
        );
        assert_eq!(records.find("default", "c").unwrap().unwrap().uid, "c");
        assert!(records.find("default", "b").is_err(), "it may be the damaged one");
        std::fs::write(dir.path().join("state/pods/a/status.json"), "[]").unwrap();
        assert!(records.status("a").unwrap_err().to_string().contains("a/status.json"));
    }

    #[test]
    fn reading_all_pods_while_they_come_and_go_never_fails() {
        let (_dir, records) = records();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let (found, damaged) = records.list_all().unwrap();
                    assert!(damaged.is_empty(), "{damaged:?}");
                    for record in found {
                        records.status(&record.uid).unwrap();
                        records.events(&record.uid).unwrap();
                    }
                }
            });
            let result: Result<(), RecordsError> = (0..100).try_for_each(|n| {
                let uid = format!("u{n}");
                let _lock = records.create(&record(&uid, &uid))?;
                records.save_status(&uid, &StatusRecord::pending())?;
                records.remove(&uid)
            });
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            result.unwrap();
        });
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
        #[test]
        fn any_content_of_a_status_is_read_or_refused_by_its_name(content in "[\\PC]{0,80}") {
            let (dir, records) = records();
            let detached = PodRecord { detached: true, ..record("u1", "web") };
            let _lock = records.create(&detached).unwrap();
            std::fs::write(dir.path().join("state/pods/u1/status.json"), content).unwrap();
            if let Err(error) = records.status("u1") {
                proptest::prop_assert!(error.to_string().contains("status.json"));
            }
        }
    }
}
