//! The files of an object: `NAME%VERSION.json` is the object at that version, `NAME%VERSION.deleted` its removal. The
//! highest version is the valid one. All others are leftovers.
//!
//! Names of objects contain no `%`. A long name is cut, and a digest identifies it.

use std::collections::BTreeMap;
use std::io;

use sha2::{Digest, Sha256};

use crate::disk::{Directory, Entry};
use crate::version::decimal;

/// Maximum length of a file's name before its version: 255 minus `%`, 20 digits and `.deleted`.
const MAX_STEM_BYTES: usize = 226;
const DIGEST_BYTES: usize = 16;

/// The part of the files' names that is the same for all versions of an object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stem(String);

impl Stem {
    pub(crate) fn of(name: &str) -> Self {
        if name.len() <= MAX_STEM_BYTES {
            return Self(name.to_owned());
        }
        let mut end = MAX_STEM_BYTES - 2 - 2 * DIGEST_BYTES;
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let digest: String = digest(name).iter().map(|byte| format!("{byte:02x}")).collect();
        Self(format!("{}%%{digest}", &name[..end]))
    }

    /// The object's name, unless the name was cut.
    #[cfg(test)]
    pub(crate) fn name(&self) -> Option<&str> {
        (!self.0.contains('%')).then_some(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn file_name(&self, revision: Revision) -> String {
        let kind = if revision.is_removal { "deleted" } else { "json" };
        format!("{}%{}.{kind}", self.0, revision.version)
    }
}

/// The bucket of the object with this name: one of 16 directories, each small enough to be searched for every read and
/// write.
pub(crate) fn bucket(name: &str) -> String {
    format!("{:x}", digest(name)[0] & 0xf)
}

/// Whether a directory can be a bucket.
pub(crate) fn is_bucket(name: &str) -> bool {
    matches!(name.as_bytes(), [b'0'..=b'9' | b'a'..=b'f'])
}

fn digest(name: &str) -> [u8; DIGEST_BYTES] {
    let mut digest = [0; DIGEST_BYTES];
    for (byte, of_name) in digest.iter_mut().zip(Sha256::digest(name.as_bytes())) {
        *byte = of_name;
    }
    digest
}

/// The file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Revision {
    pub version: u64,
    /// Whether the file marks the object's removal.
    pub is_removal: bool,
}

/// Parses the name of a file; `None` if it is not a revision.
pub(crate) fn parse(file_name: &str) -> Option<(Stem, Revision)> {
    let (stem, version) = file_name.rsplit_once('%')?;
    let (number, kind) = version.split_once('.')?;
    let is_removal = match kind {
        "json" => false,
        "deleted" => true,
        _ => return None,
    };
    let version = decimal(number)?;
    let revision = Revision { version, is_removal };
    (!stem.is_empty()).then(|| (Stem(stem.to_owned()), revision))
}

/// All revisions of an object, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Revisions(Vec<Revision>);

impl Revisions {
    /// Searches a bucket for the revisions of an object.
    pub(crate) fn of(bucket: &Directory, stem: &Stem) -> io::Result<Self> {
        let entries = bucket.entries()?;
        let names = entries.iter().filter_map(|entry| entry.name.as_deref());
        let own = names.filter_map(|name| {
            name.strip_prefix(stem.as_str())
                .filter(|rest| rest.starts_with('%'))
                .map(|_| name)
        });
        let mut revisions: Vec<Revision> = own
            .filter_map(parse)
            .filter_map(|(found, revision)| (found == *stem).then_some(revision))
            .collect();
        revisions.sort_unstable();
        Ok(Self(revisions))
    }

    pub(crate) fn newest(&self) -> Option<Revision> {
        self.0.last().copied()
    }

    /// The object's version; `None` if there is no object.
    pub(crate) fn current(&self) -> Option<u64> {
        self.newest()
            .filter(|newest| !newest.is_removal)
            .map(|newest| newest.version)
    }

    pub(crate) fn older(&self) -> impl Iterator<Item = Revision> {
        self.0.iter().rev().skip(1).copied()
    }

    /// Whether the object's current revision is the only file.
    pub(crate) fn is_tidy(&self) -> bool {
        self.current().is_some() && self.0.len() == 1
    }

    /// Adds a revision that is newer than all others.
    pub(crate) fn push(&mut self, newest: Revision) {
        self.0.push(newest);
    }
}

/// The revisions of all objects in a bucket, each with the inode of its newest revision, and the entries that are not
/// revisions.
pub(crate) fn all(entries: Vec<Entry>) -> (BTreeMap<Stem, (Revisions, u64)>, Vec<Entry>) {
    let mut objects: BTreeMap<Stem, Vec<(Revision, u64)>> = BTreeMap::new();
    let mut foreign = Vec::new();
    for entry in entries {
        match entry.name.as_deref().and_then(parse) {
            Some((stem, revision)) => objects.entry(stem).or_default().push((revision, entry.inode)),
            None => foreign.push(entry),
        }
    }
    let objects = objects.into_iter().map(|(stem, mut revisions)| {
        revisions.sort_unstable();
        let inode = revisions.last().map_or(0, |(_, inode)| *inode);
        let revisions = revisions.into_iter().map(|(revision, _)| revision).collect();
        (stem, (Revisions(revisions), inode))
    });
    (objects.collect(), foreign)
}

/// Removes the revisions that the newest one replaces. The newest revision must be durable, so that it stays the newest
/// whichever of these removals survive a power cut. A revision that marks the object's removal is removed last, once
/// the removal of the others is durable.
///
/// No lock is needed: versions only increase, so no revision that is removed here can become valid again.
pub(crate) fn tidy(bucket: &Directory, stem: &Stem, revisions: &Revisions) -> io::Result<()> {
    for older in revisions.older() {
        remove(bucket, stem, older)?;
    }
    if let Some(newest) = revisions.newest()
        && newest.is_removal
    {
        bucket.sync()?;
        remove(bucket, stem, newest)?;
    }
    Ok(())
}

fn remove(bucket: &Directory, stem: &Stem, revision: Revision) -> io::Result<()> {
    match bucket.remove_file(&stem.file_name(revision)) {
        // Another process has removed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket_with(files: &[&str]) -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let bucket = Directory::open(dir.path()).unwrap();
        (dir, bucket)
    }

    fn revisions(bucket: &Directory) -> Revisions {
        Revisions::of(bucket, &Stem::of("a")).unwrap()
    }

    #[test]
    fn the_highest_number_is_the_newest_and_other_files_are_ignored() {
        let foreign = [
            "x",
            "a%30.json~",
            "a%040.json",
            "a%99999999999999999999999.json",
            "a%50.txt",
            "%60.json",
            "a%",
            "a",
            "70",
        ];
        let others = ["aa%80.json", "a.b%80.json", "a%%80.json"];
        let (_dir, bucket) = bucket_with(&[&foreign[..], &others, &["a%9.json", "a%10.json", "a%2.deleted"]].concat());
        let found = revisions(&bucket);
        assert_eq!(found.current(), Some(10));
        let older: Vec<_> = found.older().map(|older| Stem::of("a").file_name(older)).collect();
        assert_eq!(older, ["a%9.json", "a%2.deleted"]);
        let (objects, rest) = all(bucket.entries().unwrap());
        assert_eq!(objects[&Stem::of("a")].0, found);
        assert_eq!((objects.len(), rest.len()), (4, foreign.len()));
    }

    #[test]
    fn a_removal_hides_older_revisions_and_is_removed_with_them() {
        let (dir, bucket) = bucket_with(&["a%1.json", "a%2.json", "a%3.deleted", "b%1.json"]);
        assert_eq!(revisions(&bucket).current(), None);
        tidy(&bucket, &Stem::of("a"), &revisions(&bucket)).unwrap();
        assert_eq!(revisions(&bucket), Revisions::default());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn tidying_keeps_what_was_created_meanwhile() {
        let (dir, bucket) = bucket_with(&["a%1.json", "a%2.deleted"]);
        let before = revisions(&bucket);
        std::fs::write(dir.path().join("a%3.json"), "").unwrap();
        tidy(&bucket, &Stem::of("a"), &before).unwrap();
        assert!(revisions(&bucket).is_tidy());
        assert_eq!(revisions(&bucket).current(), Some(3));
    }

    #[test]
    fn every_name_has_its_own_files_whose_names_are_not_too_long() {
        let newest = Revision {
            version: u64::MAX,
            is_removal: true,
        };
        let long = "a".repeat(252);
        let names = [
            "a",
            "a.b",
            &"a".repeat(226),
            &"a".repeat(227),
            &format!("{long}b"),
            &format!("{long}c"),
            &"\u{e9}".repeat(126),
        ];
        let mut stems: Vec<Stem> = names.iter().map(|name| Stem::of(name)).collect();
        for (name, stem) in names.iter().zip(&stems) {
            let file_name = stem.file_name(newest);
            assert!(file_name.len() <= 255, "{file_name}");
            assert_eq!(parse(&file_name), Some((stem.clone(), newest)));
            assert_eq!(stem.name(), (name.len() <= MAX_STEM_BYTES).then_some(*name));
            assert!(is_bucket(&bucket(name)));
        }
        stems.sort();
        stems.dedup();
        assert_eq!(stems.len(), names.len());
    }

    #[test]
    fn buckets_never_change() {
        // Objects written by earlier builds must be found.
        let buckets: Vec<_> = ["a", "b", "web", "kube-root-ca.crt"].map(bucket).into();
        assert_eq!(buckets, ["a", "e", "b", "9"]);
    }
}
