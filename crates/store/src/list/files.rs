//! Reading the files of all objects of a type.

use std::sync::Arc;

use super::Objects;
use crate::damage::Damage;
use crate::disk::{Directory, Entry};
use crate::error::StoreError;
use crate::key::Key;
use crate::label::is_dns_label;
use crate::object::Object;
use crate::read::read_revision;
use crate::resource::{Resource, Scope};
use crate::revisions::{self, Revision, Stem, is_bucket};
use crate::store::{Store, namespace_of, open};

/// Objects are read by several threads if there are more for each.
const OBJECTS_FOR_A_THREAD: usize = 256;
const THREADS: usize = 8;

impl Store {
    /// The objects of a type in the store's files, and why others cannot be read. Objects that are being replaced may
    /// be missing; the journal names them.
    pub(super) fn read_files(
        &self,
        resource: &Resource,
        scope: &Scope,
    ) -> Result<(Objects, Vec<StoreError>), StoreError> {
        let mut foreign = Vec::new();
        let Some(of_type) = self.type_directory(resource)? else {
            return Ok((Objects::new(), foreign));
        };
        let namespaces = match scope {
            Scope::Namespace(namespace) => vec![namespace.clone()],
            Scope::All => directories(&of_type, &mut foreign, "a namespace", |name| match namespace_of(name) {
                Some(namespace) => resource.namespaced && is_dns_label(&namespace),
                None => !resource.namespaced,
            })?,
        };
        let mut found = Vec::new();
        for name in namespaces {
            let namespace = namespace_of(&name);
            if let Err(error) = find_in_namespace(&of_type, &name, namespace.as_deref(), &mut found, &mut foreign) {
                foreign.push(error);
            }
        }
        // This is approximately their order on disk.
        found.sort_unstable_by_key(|file| file.inode);
        Ok((self.read_each(resource, &found), foreign))
    }

    /// Reads these objects. Many objects are read by several threads, because most of the time is spent waiting for the
    /// disk.
    fn read_each(&self, resource: &Resource, found: &[ObjectFile]) -> Objects {
        let read = |found: &[ObjectFile]| -> Vec<_> {
            found.iter().filter_map(|file| self.read_file(resource, file)).collect()
        };
        let threads = (found.len() / OBJECTS_FOR_A_THREAD).clamp(1, THREADS);
        if threads == 1 {
            return read(found).into_iter().collect();
        }
        std::thread::scope(|scope| {
            let chunks = found.chunks(found.len().div_ceil(threads));
            let started: Vec<_> = chunks
                .map(|chunk| {
                    let thread = std::thread::Builder::new().spawn_scoped(scope, || read(chunk));
                    // If no other thread can be started, this one reads the objects.
                    thread.map_err(|_| chunk)
                })
                .collect();
            let objects = started.into_iter().flat_map(|thread| match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(chunk) => read(chunk),
            });
            objects.collect()
        })
    }

    /// `None` if the file was replaced or removed, which the journal shows.
    fn read_file(&self, resource: &Resource, file: &ObjectFile) -> Option<(Key, Result<Arc<Object>, StoreError>)> {
        let namespace = file.namespace.as_deref();
        let read = read_revision(&file.bucket, resource, namespace, &file.stem, file.revision).transpose()?;
        let name = match &read {
            Ok(object) => object.name(),
            Err(_) => file.stem.as_str(),
        };
        let key = Key {
            namespace: file.namespace.clone(),
            name: name.to_owned(),
        };
        Some((key, read.map(Arc::new)))
    }
}

/// The newest file of an object.
#[derive(Debug)]
struct ObjectFile {
    bucket: Arc<Directory>,
    namespace: Option<String>,
    stem: Stem,
    revision: Revision,
    inode: u64,
}

/// Adds the objects in a namespace.
fn find_in_namespace(
    of_type: &Directory,
    name: &str,
    namespace: Option<&str>,
    found: &mut Vec<ObjectFile>,
    foreign: &mut Vec<StoreError>,
) -> Result<(), StoreError> {
    let Some(directory) = open(of_type, name)? else {
        return Ok(());
    };
    for bucket in directories(&directory, foreign, "a group of objects", is_bucket)? {
        let files = match open(&directory, &bucket) {
            Ok(Some(bucket)) => find_files(bucket, namespace, found, foreign),
            Ok(None) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = files {
            foreign.push(error);
        }
    }
    Ok(())
}

/// Adds the objects in a bucket.
fn find_files(
    bucket: Directory,
    namespace: Option<&str>,
    found: &mut Vec<ObjectFile>,
    foreign: &mut Vec<StoreError>,
) -> Result<(), StoreError> {
    let entries = bucket.entries().map_err(StoreError::io("read", bucket.path()))?;
    let (objects, others) = revisions::all(entries);
    for entry in others {
        foreign.push(foreign_entry(&bucket, entry, Damage::ForeignName("an object")));
    }
    let bucket = Arc::new(bucket);
    for (stem, (revisions, inode)) in objects {
        if let Some(revision) = revisions.newest().filter(|newest| !newest.is_removal) {
            found.push(ObjectFile {
                bucket: Arc::clone(&bucket),
                namespace: namespace.map(str::to_owned),
                stem,
                revision,
                inode,
            });
        }
    }
    Ok(())
}

/// Names of the directories in a directory. Other entries are reported.
fn directories(
    directory: &Directory,
    foreign: &mut Vec<StoreError>,
    what: &'static str,
    is_valid: impl Fn(&str) -> bool,
) -> Result<Vec<String>, StoreError> {
    let entries = directory.entries().map_err(StoreError::io("read", directory.path()))?;
    let mut names = Vec::new();
    for entry in entries {
        match &entry.name {
            _ if entry.is_no_directory => foreign.push(foreign_entry(directory, entry, Damage::NotADirectory)),
            Some(name) if is_valid(name) => names.push(name.clone()),
            _ => foreign.push(foreign_entry(directory, entry, Damage::ForeignName(what))),
        }
    }
    Ok(names)
}

fn foreign_entry(directory: &Directory, entry: Entry, damage: Damage) -> StoreError {
    let name = entry.name.as_deref().unwrap_or("(not UTF-8)");
    StoreError::damaged_object(&directory.path().join(name), damage)
}
