//! Objects that tests keep outside of the store's files, as a supervisor keeps its Pod.

use std::error::Error;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use microkube_base::file_lock::{self, LockedFile, Sharing};
use serde_json::{Value, json};

use super::{key, open};
use crate::object::Object;
use crate::records::{Reading, Records, Wait};
use crate::store::Store;
use crate::test_types::pods;
use crate::write::RecordChange;

/// A directory for each object. It is locked while the object changes.
#[derive(Debug, Clone)]
pub(super) struct KeptRecords(PathBuf);

impl KeptRecords {
    pub(super) fn below(directory: &Path) -> Self {
        let directory = directory.join("records");
        std::fs::create_dir_all(&directory).unwrap();
        Self(directory)
    }

    fn record(&self, uid: &str) -> PathBuf {
        self.0.join(uid).join("record.json")
    }

    pub(super) fn lock(&self, uid: &str) -> LockedFile {
        let directory = self.0.join(uid);
        std::fs::create_dir_all(&directory).unwrap();
        file_lock::lock_open(File::open(directory).unwrap().into(), Sharing::Exclusive).unwrap()
    }

    /// The first half of a change: the line in the journal. The caller holds the lock.
    pub(super) fn announce(store: &Store, name: &str, uid: &str, is_removal: bool) -> u64 {
        let key = &key(name);
        let change = RecordChange { key, uid, is_removal };
        store.number_change(&pods(), change).unwrap().number()
    }

    /// The second half of a change: the object changes or is removed.
    pub(super) fn apply(&self, name: &str, uid: &str, version: u64, text: Option<&str>) {
        let Some(text) = text else {
            return std::fs::remove_file(self.record(uid)).unwrap();
        };
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string() },
            "data": { "key": text },
        });
        let new = self.0.join(uid).join("new");
        std::fs::write(&new, object.to_string()).unwrap();
        std::fs::rename(&new, self.record(uid)).unwrap();
    }

    /// Changes an object, or removes it for `None`. Returns the version.
    pub(super) fn write(&self, store: &Store, name: &str, uid: &str, text: Option<&str>) -> u64 {
        let _lock = self.lock(uid);
        let version = Self::announce(store, name, uid, text.is_none());
        self.apply(name, uid, version, text);
        version
    }

    pub(super) fn exists(&self, uid: &str) -> bool {
        self.record(uid).exists()
    }
}

impl Records for KeptRecords {
    fn uids(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        let entries = std::fs::read_dir(&self.0)?;
        let names = entries.map(|entry| Ok(entry?.file_name().into_string().unwrap_or_default()));
        names.collect()
    }

    fn read(&self, uid: &str, wait: Wait) -> Result<Reading, Box<dyn Error + Send + Sync>> {
        let directory = match File::open(self.0.join(uid)) {
            Ok(directory) => directory.into(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::Absent),
            Err(error) => return Err(error.into()),
        };
        let lock = match wait {
            Wait::Yes => Some(file_lock::lock_open(directory, Sharing::Shared)?),
            Wait::No => file_lock::try_lock_open(directory, Sharing::Shared)?,
        };
        if lock.is_none() {
            return Ok(Reading::BeingChanged);
        }
        match std::fs::read(self.record(uid)) {
            Ok(content) => {
                let value: Value = serde_json::from_slice(&content)?;
                Ok(Reading::Found(Box::new(Object::new(value)?)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Reading::Absent),
            Err(error) => Err(error.into()),
        }
    }
}

/// The store, with the records in the same directory.
pub(super) fn open_with_records(directory: &Path) -> (Store, KeptRecords) {
    let records = KeptRecords::below(directory);
    let store = open(directory).with_records(pods(), Arc::new(records.clone()));
    (store, records)
}
