//! Commits changes of objects to disk. All changes of objects go through this module. `docs/decisions/object-store.md`
//! explains the order of the steps.

use microkube_base::file_lock::{self, LockedFile, Sharing};

use crate::disk::{Directory, UnnamedFile};
use crate::error::StoreError;
use crate::journal::Change;
use crate::key::Key;
use crate::object::{MAX_OBJECT_BYTES, Object};
use crate::resource::Resource;
use crate::revisions::{self, Revision, Revisions, Stem, tidy};
use crate::store::Store;

/// The content of a commit.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content<'o> {
    Object(&'o Object),
    Removal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Committed {
    /// The change is durable, at this version.
    At(u64),
    /// Nothing was written, because the object is no longer at the expected version.
    Outdated,
    /// Nothing was written, because this is a dry run.
    DryRun,
}

impl Store {
    /// Waits until no other process is writing this object. Correctness does not depend on this; it saves writers of
    /// one object from making each other start again. `None` if there is no such object.
    pub(crate) fn turn(&self, resource: &Resource, key: &Key) -> Result<Option<LockedFile>, StoreError> {
        let Some(bucket) = self.bucket(resource, key)? else {
            return Ok(None);
        };
        let stem = Stem::of(&key.name);
        let newest = || Revisions::of(&bucket, &stem).map(|revisions| revisions.newest());
        let lock = |revision| {
            let file = bucket.open_file(&stem.file_name(revision))?;
            file.map(|file| file_lock::lock_open(file.into(), Sharing::Exclusive))
                .transpose()
        };
        let mut wanted = newest().map_err(StoreError::io("read", bucket.path()))?;
        while let Some(revision) = wanted {
            // If the file cannot be opened, reading it reports the error.
            let Ok(locked) = lock(revision) else {
                return Ok(None);
            };
            // The writer that had the lock has replaced the file.
            let now = newest().map_err(StoreError::io("read", bucket.path()))?;
            if now == wanted {
                return Ok(locked);
            }
            wanted = now;
        }
        Ok(None)
    }

    /// Writes the object if it is still at the expected version, or, if that is `None`, does not exist.
    pub(crate) fn commit(
        &self,
        resource: &Resource,
        key: &Key,
        expected: Option<u64>,
        content: Content<'_>,
        turn: Option<LockedFile>,
    ) -> Result<Committed, StoreError> {
        if self.records(resource).is_some() {
            return Err(StoreError::KeptElsewhere {
                resource: resource.qualified_plural(),
            });
        }
        let bytes = match content {
            Content::Object(object) => Some(bytes_of(resource, object)?),
            Content::Removal => None,
        };
        if self.dry_run {
            let current = self.find(resource, key)?.and_then(|object| object.resource_version());
            let is_expected = current.map(|version| version.0) == expected;
            return Ok(if is_expected {
                Committed::DryRun
            } else {
                Committed::Outdated
            });
        }
        let bucket = match (self.bucket(resource, key)?, expected) {
            (Some(bucket), _) if is_durable(&bucket)? => bucket,
            (_, None) => self.make_bucket(resource, key)?,
            (_, Some(_)) => return Ok(Committed::Outdated),
        };
        let file = bytes.map(|bytes| self.write_unnamed(&bytes)).transpose()?;
        let stem = Stem::of(&key.name);
        let error = |action| StoreError::io(action, bucket.path());

        let mut locked = self.lock(Sharing::Exclusive)?;
        let mut revisions = Revisions::of(&bucket, &stem).map_err(error("read"))?;
        if revisions.current() != expected {
            return Ok(Committed::Outdated);
        }
        let version = locked.next_version(|version| Change {
            version,
            resource: resource.qualified_plural(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: None,
            deleted: file.is_none(),
        })?;
        let revision = Revision {
            version,
            is_removal: file.is_none(),
        };
        let name = stem.file_name(revision);
        match &file {
            Some(file) => bucket.link(file, &name),
            None => bucket.create_empty(&name),
        }
        .map_err(error("write"))?;
        drop(locked);

        drop(turn);
        bucket.sync().map_err(error("write"))?;
        revisions.push(revision);
        // The result does not depend on this removal; the next writer or sweep tries again.
        let _ = tidy(&bucket, &stem, &revisions);
        Ok(Committed::At(version))
    }

    /// Makes durable a state that the caller has read and will report as written.
    pub(crate) fn confirm(&self, resource: &Resource, key: &Key) -> Result<(), StoreError> {
        match self.bucket(resource, key)? {
            Some(bucket) => bucket.sync().map_err(StoreError::io("write", bucket.path())),
            None => Ok(()),
        }
    }

    fn write_unnamed(&self, bytes: &[u8]) -> Result<UnnamedFile, StoreError> {
        let directory = self.objects();
        directory
            .write_unnamed(bytes)
            .map_err(|error| match error.raw_os_error() {
                // A kernel or file system without unnamed files tries to open the directory for writing.
                Some(nix::libc::EOPNOTSUPP | nix::libc::EISDIR) => StoreError::FileSystem {
                    path: directory.path().to_owned(),
                },
                _ => StoreError::io("write a file in", directory.path())(error),
            })
    }
}

/// Whether a bucket is known to survive a power cut. Files are linked only into such buckets.
fn is_durable(bucket: &Directory) -> Result<bool, StoreError> {
    let entries = bucket.entries().map_err(StoreError::io("read", bucket.path()))?;
    let mut names = entries.iter().filter_map(|entry| entry.name.as_deref());
    Ok(names.any(|name| revisions::parse(name).is_some()))
}

fn bytes_of(resource: &Resource, object: &Object) -> Result<Vec<u8>, StoreError> {
    let bytes = object.to_file()?;
    if bytes.len() as u64 > MAX_OBJECT_BYTES {
        return Err(StoreError::TooLarge {
            resource: resource.qualified_plural(),
            name: object.name().to_owned(),
            bytes: bytes.len(),
            limit: MAX_OBJECT_BYTES,
        });
    }
    Ok(bytes)
}
