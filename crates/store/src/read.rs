//! Reading one object.

use microkube_base::file_lock::Sharing;

use crate::damage::Damage;
use crate::disk::{self, Directory, NotReadable};
use crate::error::StoreError;
use crate::key::Key;
use crate::label::problem_of_name;
use crate::object::{MAX_OBJECT_BYTES, Object};
use crate::records;
use crate::resource::Resource;
use crate::revisions::{Revision, Revisions, Stem};
use crate::store::Store;
use crate::version::ResourceVersion;

/// How many times to try to read an object that is being replaced before taking the store's lock.
const ATTEMPTS: usize = 8;

/// The result of one attempt to read an object.
#[derive(Debug)]
enum Look {
    Found(Object),
    Removed,
    /// No file was found. In a directory that changes during the read, a file that replaces another may be missed.
    Nothing,
    /// The newest file was replaced before it was opened.
    Replaced,
}

impl Store {
    /// The object with this name.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] if there is none.
    pub fn get(&self, resource: &Resource, key: &Key) -> Result<Object, StoreError> {
        self.find(resource, key)?
            .ok_or_else(|| StoreError::not_found(resource, &key.name))
    }

    /// The object with this name, if there is one.
    ///
    /// # Errors
    /// If its file cannot be read.
    pub fn find(&self, resource: &Resource, key: &Key) -> Result<Option<Object>, StoreError> {
        key.check(resource)?;
        if let Some(records) = self.records(resource) {
            return records::find(records, resource, key);
        }
        let Some(bucket) = self.bucket(resource, key)? else {
            return Ok(None);
        };
        for _ in 0..ATTEMPTS {
            match look(&bucket, resource, key)? {
                Look::Found(object) => return Ok(Some(object)),
                Look::Removed => return Ok(None),
                Look::Nothing => break,
                Look::Replaced => {}
            }
        }
        let _locked = self.lock(Sharing::Shared)?;
        find_in(&bucket, resource, key)
    }

    /// Like [`Self::find`], for a caller that holds the store's lock.
    pub(crate) fn find_locked(&self, resource: &Resource, key: &Key) -> Result<Option<Object>, StoreError> {
        match self.bucket(resource, key)? {
            Some(bucket) => find_in(&bucket, resource, key),
            None => Ok(None),
        }
    }
}

/// Requires the store's lock, so that the newest file stays.
fn find_in(bucket: &Directory, resource: &Resource, key: &Key) -> Result<Option<Object>, StoreError> {
    Ok(match look(bucket, resource, key)? {
        Look::Found(object) => Some(object),
        Look::Removed | Look::Nothing | Look::Replaced => None,
    })
}

fn look(bucket: &Directory, resource: &Resource, key: &Key) -> Result<Look, StoreError> {
    let stem = Stem::of(&key.name);
    let revisions = Revisions::of(bucket, &stem).map_err(StoreError::io("read", bucket.path()))?;
    let Some(newest) = revisions.newest() else {
        return Ok(Look::Nothing);
    };
    if newest.is_removal {
        return Ok(Look::Removed);
    }
    let object = read_revision(bucket, resource, key.namespace.as_deref(), &stem, newest)?;
    Ok(object.map_or(Look::Replaced, Look::Found))
}

/// Reads an object's file; `None` if it no longer exists.
pub(crate) fn read_revision(
    bucket: &Directory,
    resource: &Resource,
    namespace: Option<&str>,
    stem: &Stem,
    revision: Revision,
) -> Result<Option<Object>, StoreError> {
    let name = stem.file_name(revision);
    let path = || bucket.path().join(&name);
    let file = match bucket.open_file(&name) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        // A symbolic link or a socket.
        Err(error) if matches!(error.raw_os_error(), Some(nix::libc::ELOOP | nix::libc::ENXIO)) => {
            return Err(StoreError::damaged_object(&path(), Damage::NotAFile));
        }
        Err(error) => return Err(StoreError::io("read", &path())(error)),
    };
    let content = disk::read(file, MAX_OBJECT_BYTES).map_err(|error| StoreError::io("read", &path())(error))?;
    let object = content
        .map_err(Damage::from)
        .and_then(|content| object_in(&content, resource, namespace, stem));
    match object {
        Ok(object) => Ok(Some(object.at(ResourceVersion(revision.version)))),
        Err(damage) => Err(StoreError::damaged_object(&path(), damage)),
    }
}

impl From<NotReadable> for Damage {
    fn from(why: NotReadable) -> Self {
        match why {
            NotReadable::NotAFile => Self::NotAFile,
            NotReadable::TooLong => Self::TooLong(MAX_OBJECT_BYTES),
        }
    }
}

/// Parses the object in a file. The object must be the one that the file's path names.
pub(crate) fn object_in(
    content: &[u8],
    resource: &Resource,
    namespace: Option<&str>,
    stem: &Stem,
) -> Result<Object, Damage> {
    let object = Object::from_file(content)?;
    let kind = object.top_level_text("kind").unwrap_or_default();
    let is_named = problem_of_name(object.name()).is_none() && Stem::of(object.name()) == *stem;
    if kind != resource.kind || object.namespace() != namespace || !is_named {
        let found = format!("the {} {:?}", clipped(kind), clipped(&object.key().to_string()));
        return Err(Damage::OtherObject(found));
    }
    if object.uid().is_empty() {
        return Err(Damage::OtherObject("an object without a uid".to_owned()));
    }
    Ok(object)
}

/// The beginning of a text from a file.
fn clipped(text: &str) -> String {
    const CHARACTERS: usize = 300;
    text.chars()
        .take(CHARACTERS)
        .filter(|character| !character.is_control())
        .collect()
}
