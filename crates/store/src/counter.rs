//! The reserved part of the counter of versions: the file `counter.json`.
//!
//! All numbers up to `reserved` may have been used; the journal that the file names records which of them were. A
//! number is used only after the reservation of its block is durable. Without that journal, as after a reboot, the
//! whole block counts as used.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::damage::Damage;
use crate::disk::{self, Directory, NotReadable};
use crate::error::StoreError;

/// The version of the store's format: of this file, the layout of the directories, and the journal.
const FORMAT_VERSION: u32 = 1;
const FILE: &str = "counter.json";
const MAX_BYTES: u64 = 4096;
/// How many numbers are reserved at a time. The disk is synced once per block, and a reboot skips at most one block.
const BLOCK: u64 = 1024;
/// The version of an empty store. Not 0, because 0 has a special meaning to clients.
const FIRST: u64 = 1;
const REMEDY: &str = "write {\"version\":1,\"reserved\":N} to it, where N is at least every resourceVersion ever used";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counter {
    version: u32,
    /// The highest number that may have been used.
    pub reserved: u64,
    /// The [`crate::journal::Journal`] that records the highest number used.
    #[serde(default)]
    pub journal: String,
}

impl Counter {
    pub(crate) fn path(root: &Path) -> PathBuf {
        root.join(FILE)
    }

    /// The counter of the store in `root`; `None` if the file does not exist.
    pub(crate) fn read(root: &Directory) -> Result<Option<Self>, StoreError> {
        let path = Self::path(root.path());
        let io = || StoreError::io("read", &path);
        let damaged = |damage| StoreError::Damaged {
            path: path.clone(),
            damage,
            remedy: REMEDY,
        };
        let Some(file) = root.open_file(FILE).map_err(io())? else {
            return Ok(None);
        };
        let content = match disk::read(file, MAX_BYTES).map_err(io())? {
            Ok(content) => content,
            Err(NotReadable::NotAFile) => return Err(damaged(Damage::NotAFile)),
            Err(NotReadable::TooLong) => return Err(damaged(Damage::TooLong(MAX_BYTES))),
        };
        /// The part of the file that exists in every version.
        #[derive(Deserialize)]
        struct Head {
            version: u64,
        }
        let json = |error: serde_json::Error| damaged(Damage::NotJson(error.to_string()));
        let Head { version } = serde_json::from_slice(&content).map_err(json)?;
        if version > FORMAT_VERSION.into() {
            return Err(StoreError::Newer {
                path,
                found: version,
                known: FORMAT_VERSION,
            });
        }
        serde_json::from_slice(&content).map(Some).map_err(json)
    }

    /// The error for a store that has objects but no counter.
    pub(crate) fn missing(root: &Path) -> StoreError {
        StoreError::Damaged {
            path: Self::path(root),
            damage: Damage::Missing,
            remedy: REMEDY,
        }
    }

    /// Writes the counter of a new store, durably.
    pub(crate) fn create(root: &Directory) -> Result<(), StoreError> {
        let counter = Self {
            version: FORMAT_VERSION,
            reserved: FIRST,
            journal: String::new(),
        };
        counter.write(root)
    }

    /// Reserves the next block, durably, for the journal with this ID.
    pub(crate) fn reserve(&mut self, root: &Directory, journal: &str) -> Result<(), StoreError> {
        let reserved = self.reserved.checked_add(BLOCK).ok_or_else(|| StoreError::Exhausted {
            path: Self::path(root.path()),
        })?;
        let next = Self {
            version: FORMAT_VERSION,
            reserved,
            journal: journal.to_owned(),
        };
        next.write(root)?;
        *self = next;
        Ok(())
    }

    fn write(&self, root: &Directory) -> Result<(), StoreError> {
        let io = StoreError::io("write", &Self::path(root.path()));
        let content = serde_json::to_vec(self).map_err(std::io::Error::from);
        content.and_then(|content| root.replace(FILE, &content)).map_err(io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let root = Directory::open(dir.path()).unwrap();
        (dir, root)
    }

    #[test]
    fn a_block_is_reserved_on_disk() {
        let (_dir, root) = root();
        assert_eq!(Counter::read(&root).unwrap(), None);
        Counter::create(&root).unwrap();
        let mut counter = Counter::read(&root).unwrap().unwrap();
        assert_eq!(counter.reserved, FIRST);
        counter.reserve(&root, "id").unwrap();
        assert_eq!(counter.reserved, FIRST + BLOCK);
        assert_eq!(Counter::read(&root).unwrap(), Some(counter));
    }

    #[test]
    fn a_damaged_counter_names_its_file_and_a_remedy() {
        let (dir, root) = root();
        for content in [
            "",
            "{",
            "[]",
            r#"{"version":1}"#,
            r#"{"version":1,"reserved":-1}"#,
            &" ".repeat(5000),
        ] {
            std::fs::write(Counter::path(dir.path()), content).unwrap();
            let error = Counter::read(&root).unwrap_err().to_string();
            assert!(
                error.contains("counter.json is damaged") && error.contains("write {"),
                "{error}"
            );
        }
        std::fs::write(Counter::path(dir.path()), r#"{"version":1,"reserved":5}"#).unwrap();
        assert_eq!(Counter::read(&root).unwrap().unwrap().reserved, 5, "the remedy works");
    }

    #[test]
    fn a_newer_format_is_refused_whatever_else_it_contains() {
        let (dir, root) = root();
        std::fs::write(Counter::path(dir.path()), r#"{"version":2,"blocks":[]}"#).unwrap();
        assert!(matches!(
            Counter::read(&root),
            Err(StoreError::Newer { found: 2, known: 1, .. })
        ));
    }

    #[test]
    fn the_last_number_is_an_error_and_no_overflow() {
        let (dir, root) = root();
        let content = format!("{{\"version\":1,\"reserved\":{}}}", u64::MAX - 5);
        std::fs::write(Counter::path(dir.path()), content).unwrap();
        let mut counter = Counter::read(&root).unwrap().unwrap();
        assert!(matches!(counter.reserve(&root, ""), Err(StoreError::Exhausted { .. })));
    }
}
