//! The store's files, and the lock under which they change.
//!
//! ```text
//! STATE/lock                               flock: exclusive to write, shared to read several files as of one moment
//! STATE/counter.json                       which versions may have been used
//! STATE/objects/TYPE/NAMESPACE/BUCKET/     TYPE as in `deployments.apps`; `_cluster` for objects outside of namespaces;
//!                                          BUCKET one of 16, by the object's name
//!     NAME%VERSION.json                    the object
//!     NAME%VERSION.deleted                 marks its removal until its older files are removed
//! RUN/changes, RUN/changes.old             the journal
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use microkube_base::file_lock::{self, LockedFile, Sharing};
use microkube_base::lock::lock as lock_mutex;
use microkube_base::{private_directory, replaced_file};

use crate::counter::Counter;
use crate::damage::Damage;
use crate::disk::Directory;
use crate::error::StoreError;
use crate::journal::{Change, Journal, Position, Read};
use crate::key::Key;
#[cfg(test)]
use crate::power_cut::Recorder;
use crate::records::Records;
use crate::resource::Resource;
use crate::revisions;

const LOCK_FILE: &str = "lock";
/// How long a process waits for the store's lock. Its holder writes and syncs a few files at most, unless it is stopped.
const LOCK_LIMIT: Duration = Duration::from_secs(60);
const OBJECTS: &str = "objects";
/// Directory of objects outside of namespaces. No namespace can have this name.
const CLUSTER: &str = "_cluster";

/// The objects of this node. All calls block. Any number of processes and threads may use the same store.
#[derive(Debug, Clone)]
pub struct Store {
    files: Arc<Files>,
    /// Types whose objects are outside of the store's files.
    elsewhere: Vec<(Resource, Arc<dyn Records>)>,
    pub(crate) dry_run: bool,
}

#[derive(Debug)]
struct Files {
    root: Directory,
    objects: Directory,
    journal: Journal,
    /// Directories of types, namespaces and buckets that are durable. Such directories are never removed.
    durable: Mutex<HashSet<PathBuf>>,
}

impl Store {
    /// Opens the store, and creates it if it does not exist.
    ///
    /// `state` must survive a reboot; `run` need not, and all processes that use the same `state` must use the same
    /// `run`.
    ///
    /// # Errors
    /// If the directories cannot be created, or the store is damaged or of a newer version.
    pub fn open(state: &Path, run: &Path) -> Result<Self, StoreError> {
        Self::open_recorded(
            state,
            run,
            #[cfg(test)]
            None,
        )
    }

    pub(crate) fn open_recorded(
        state: &Path,
        run: &Path,
        #[cfg(test)] recorder: Option<Recorder>,
    ) -> Result<Self, StoreError> {
        for directory in [state, run] {
            private_directory::create(directory).map_err(StoreError::io("create", directory))?;
        }
        let root = Directory::open(state).map_err(StoreError::io("open", state))?;
        #[cfg(test)]
        let root = root.recorded_by(recorder);
        if Counter::read(&root)?.is_none() {
            create(&root)?;
        }
        let objects = match open(&root, OBJECTS)? {
            Some(objects) => objects,
            None => make_objects(&root)?,
        };
        let journal = Journal::new(run.to_owned()).map_err(StoreError::io("open", run))?;
        Ok(Self {
            files: Arc::new(Files {
                root,
                objects,
                journal,
                durable: Mutex::default(),
            }),
            elsewhere: Vec::new(),
            dry_run: false,
        })
    }

    /// Adds the objects of a type that other code keeps and changes. Lists and watches show them like all others.
    #[must_use]
    pub fn with_records(mut self, resource: Resource, records: Arc<dyn Records>) -> Self {
        self.elsewhere.push((resource, records));
        self
    }

    /// The reader of this type's objects, if they are outside of the store's files.
    pub(crate) fn records(&self, resource: &Resource) -> Option<&dyn Records> {
        let is_type = |known: &Resource| known.plural == resource.plural && known.group == resource.group;
        let found = self.elsewhere.iter().find(|(known, _)| is_type(known));
        found.map(|(_, records)| records.as_ref())
    }

    /// A copy of the store for dry runs: its writes check, complete and return objects without writing them.
    #[must_use]
    pub fn dry_run(&self) -> Self {
        Self {
            dry_run: true,
            ..self.clone()
        }
    }

    /// Whether operations check everything and write nothing.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub(crate) fn root(&self) -> &Path {
        self.files.root.path()
    }

    pub(crate) fn objects(&self) -> &Directory {
        &self.files.objects
    }

    /// Directory of the journal. Every change of an object changes a file in it.
    pub(crate) fn journal_directory(&self) -> &Path {
        self.files.journal.directory()
    }

    /// Waits for the store's lock.
    pub(crate) fn lock(&self, sharing: Sharing) -> Result<Locked<'_>, StoreError> {
        let lock = lock_root(&self.files.root, sharing)?;
        let counter = Counter::read(&self.files.root)?.ok_or_else(|| Counter::missing(self.files.root.path()))?;
        Ok(Locked {
            files: &self.files,
            counter,
            _lock: lock,
        })
    }

    /// The directory of a type; `None` if it does not exist.
    pub(crate) fn type_directory(&self, resource: &Resource) -> Result<Option<Directory>, StoreError> {
        open(self.objects(), &resource.qualified_plural())
    }

    /// The directory of an object's files; `None` if it does not exist.
    pub(crate) fn bucket(&self, resource: &Resource, key: &Key) -> Result<Option<Directory>, StoreError> {
        let Some(of_type) = self.type_directory(resource)? else {
            return Ok(None);
        };
        let Some(namespace) = open(&of_type, directory_name(key.namespace.as_deref()))? else {
            return Ok(None);
        };
        open(&namespace, &revisions::bucket(&key.name))
    }

    /// Creates the directory of an object's files, durably.
    pub(crate) fn make_bucket(&self, resource: &Resource, key: &Key) -> Result<Directory, StoreError> {
        let of_type = self.make_durable(self.objects(), &resource.qualified_plural())?;
        let namespace = self.make_durable(&of_type, directory_name(key.namespace.as_deref()))?;
        self.make_durable(&namespace, &revisions::bucket(&key.name))
    }

    fn make_durable(&self, parent: &Directory, name: &str) -> Result<Directory, StoreError> {
        let path = parent.path().join(name);
        if !lock_mutex(&self.files.durable).contains(&path) {
            // Sync even an existing directory, because the process that created it may have died before the sync.
            parent
                .make_child(name)
                .and_then(|()| parent.sync())
                .map_err(StoreError::io("create", &path))?;
            lock_mutex(&self.files.durable).insert(path.clone());
        }
        open(parent, name)?.ok_or_else(|| StoreError::io("open", &path)(io::ErrorKind::NotFound.into()))
    }
}

/// Creates an empty store.
fn create(root: &Directory) -> Result<(), StoreError> {
    let path = root.path();
    let _lock = lock_root(root, Sharing::Exclusive)?;
    if Counter::read(root)?.is_some() {
        return Ok(());
    }
    let error = || StoreError::io("create", path);
    let objects = make_objects(root)?;
    if !objects.entries().map_err(error())?.is_empty() {
        return Err(Counter::missing(path));
    }
    replaced_file::sync_directory(path.parent().unwrap_or(path)).map_err(error())?;
    Counter::create(root)
}

/// Creates the directory of all objects, durably.
fn make_objects(root: &Directory) -> Result<Directory, StoreError> {
    let path = root.path().join(OBJECTS);
    root.make_child(OBJECTS)
        .and_then(|()| root.sync())
        .map_err(StoreError::io("create", &path))?;
    open(root, OBJECTS)?.ok_or_else(|| StoreError::io("create", &path)(io::ErrorKind::NotFound.into()))
}

fn lock_root(root: &Directory, sharing: Sharing) -> Result<LockedFile, StoreError> {
    let path = root.path().join(LOCK_FILE);
    let open = || {
        if sharing == Sharing::Shared {
            // A file system that is mounted read-only can be read.
            match File::open(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                opened => return opened,
            }
        }
        file_lock::open(&path)
    };
    let held = || {
        let limit_s = LOCK_LIMIT.as_secs();
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!("another process has held the lock for {limit_s} s; it may be stopped"),
        )
    };
    open()
        .and_then(|file| file_lock::lock_open_within(file.into(), sharing, LOCK_LIMIT)?.ok_or_else(held))
        .map_err(StoreError::io("lock", &path))
}

fn directory_name(namespace: Option<&str>) -> &str {
    namespace.unwrap_or(CLUSTER)
}

/// The namespace whose objects are in a directory with this name.
pub(crate) fn namespace_of(directory_name: &str) -> Option<String> {
    (directory_name != CLUSTER).then(|| directory_name.to_owned())
}

/// Opens a directory; `None` if it does not exist.
pub(crate) fn open(parent: &Directory, name: &str) -> Result<Option<Directory>, StoreError> {
    let path = || parent.path().join(name);
    parent.open_child(name).map_err(|error| match error.kind() {
        // A symbolic link also causes ENOTDIR.
        io::ErrorKind::NotADirectory => StoreError::damaged_object(&path(), Damage::NotADirectory),
        _ => StoreError::io("open", &path())(error),
    })
}

/// Holds the store's lock, so no other process is in the middle of a change.
#[derive(Debug)]
pub(crate) struct Locked<'s> {
    files: &'s Files,
    counter: Counter,
    _lock: LockedFile,
}

impl Locked<'_> {
    /// The last version used.
    pub(crate) fn version(&self) -> Result<u64, StoreError> {
        self.files.journal.last(&self.counter)
    }

    /// The next changes after a position.
    pub(crate) fn changes_after(&self, position: &Position) -> Result<Read, StoreError> {
        self.files.journal.read(&self.counter, position)
    }

    /// Uses the next version for a change. The caller must then make the change. Requires the exclusive lock.
    pub(crate) fn next_version(&mut self, change: impl FnOnce(u64) -> Change) -> Result<u64, StoreError> {
        let mut writer = self.files.journal.writer(&self.files.root, &mut self.counter)?;
        writer.append(&self.files.root, &mut self.counter, change)
    }
}
