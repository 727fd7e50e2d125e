//! Reading all objects of types, as of one moment.

mod files;

use std::collections::{BTreeMap, BTreeSet};
use std::slice;
use std::sync::Arc;

use microkube_base::file_lock::Sharing;

use crate::error::StoreError;
use crate::journal::{Change, Position, Read};
use crate::key::{Key, check_namespace, check_type};
use crate::object::Object;
use crate::records::{self, Reading, Records, Wait};
use crate::resource::{Resource, Scope};
use crate::store::Store;
use crate::version::ResourceVersion;

/// Number of rounds in which changed objects are read again without making writers wait.
const ROUNDS: usize = 64;
/// Maximum number of objects that are read while writers wait.
const READ_UNDER_LOCK: usize = 64;

/// All objects of a type, or of a type in a namespace.
#[derive(Debug)]
pub struct List {
    /// Ordered by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// Why other objects, which may exist, could not be read.
    pub damaged: Vec<StoreError>,
    /// The list is complete as of this version.
    pub resource_version: ResourceVersion,
    pub resource: Resource,
    pub scope: Scope,
}

/// Objects, and why others could not be read.
type Objects = BTreeMap<Key, Result<Arc<Object>, StoreError>>;

impl Store {
    /// Reads all objects of a type. The result is complete as of one version, from which [`Store::watch`] continues.
    ///
    /// # Errors
    /// If the type's directory cannot be read. Objects and directories that cannot be read are in [`List::damaged`].
    pub fn list(&self, resource: &Resource, scope: &Scope) -> Result<List, StoreError> {
        let mut of_type = OfType::new(resource, scope)?;
        let version = self.read_as_of_one_version(slice::from_mut(&mut of_type))?;
        Ok(of_type.into_list(version))
    }

    /// Reads all objects of several types as of the same version, from which [`Store::watch_all`] continues.
    ///
    /// # Errors
    /// See [`Self::list`].
    pub fn list_all(&self, types: &[(Resource, Scope)]) -> Result<Vec<List>, StoreError> {
        let types = types.iter().map(|(resource, scope)| OfType::new(resource, scope));
        let mut types: Vec<OfType> = types.collect::<Result<_, _>>()?;
        let version = self.read_as_of_one_version(&mut types)?;
        Ok(types.into_iter().map(|of_type| of_type.into_list(version)).collect())
    }

    /// Returns the version.
    fn read_as_of_one_version(&self, types: &mut [OfType]) -> Result<u64, StoreError> {
        let mut version = self.lock(Sharing::Shared)?.version()?;
        for of_type in &mut *types {
            of_type.read(self, Wait::Yes)?;
        }
        for round in 0.. {
            let locked = self.lock(Sharing::Shared)?;
            let now = locked.version()?;
            let changed = changed_since(types, version, |position| locked.changes_after(position))?;
            let are_few = changed.as_ref().is_some_and(|changed| changed.len() <= READ_UNDER_LOCK);
            let locked = (round >= ROUNDS || are_few).then_some(locked);
            // A holder of the store's lock must not wait for an object.
            let wait = if locked.is_some() { Wait::No } else { Wait::Yes };
            let mut being_changed = Vec::new();
            match changed {
                Some(changed) => {
                    for (index, id) in changed {
                        if let Some(of_type) = types.get_mut(index)
                            && !of_type.read_again(self, &id, wait)
                        {
                            being_changed.push((index, id));
                        }
                    }
                }
                None => {
                    for (index, of_type) in types.iter_mut().enumerate() {
                        let left = of_type.read(self, wait)?;
                        being_changed.extend(left.into_iter().map(|id| (index, id)));
                    }
                }
            }
            version = now;
            if locked.is_some() && being_changed.is_empty() {
                break;
            }
            drop(locked);
            // These objects may be newer than `version`. The next round then reads them once more.
            for (index, id) in being_changed {
                if let Some(of_type) = types.get_mut(index) {
                    of_type.read_again(self, &id, Wait::Yes);
                }
            }
        }
        Ok(version)
    }
}

/// The name of a changed object, and its UID if it is not in the store's files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    key: Key,
    uid: Option<String>,
}

/// The objects of a type while they are read.
#[derive(Debug)]
struct OfType {
    resource: Resource,
    /// The type's name in the journal.
    name: String,
    scope: Scope,
    objects: Objects,
    /// Why objects of unknown names, and directories, could not be read.
    damaged: Vec<StoreError>,
}

impl OfType {
    fn new(resource: &Resource, scope: &Scope) -> Result<Self, StoreError> {
        check_type(resource)?;
        if let Scope::Namespace(namespace) = scope {
            check_namespace(resource, "", namespace)?;
        }
        Ok(Self {
            resource: resource.clone(),
            name: resource.qualified_plural(),
            scope: scope.clone(),
            objects: Objects::new(),
            damaged: Vec::new(),
        })
    }

    fn contains(&self, change: &Change) -> bool {
        change.resource == self.name && self.scope.contains(change.namespace.as_deref())
    }

    /// Reads all objects. Returns those that are being changed.
    fn read(&mut self, store: &Store, wait: Wait) -> Result<Vec<Id>, StoreError> {
        let Some(records) = store.records(&self.resource) else {
            (self.objects, self.damaged) = store.read_files(&self.resource, &self.scope)?;
            return Ok(Vec::new());
        };
        self.objects.clear();
        self.damaged.clear();
        let mut being_changed = Vec::new();
        for uid in records::uids(records, &self.resource)? {
            match records::try_read(records, &self.resource, &uid, wait) {
                Ok(Reading::Found(object)) => self.put(*object),
                Ok(Reading::Absent) => {}
                Ok(Reading::BeingChanged) => being_changed.push(Id {
                    // The name is not known yet. It matters only for errors.
                    key: Key::cluster(&uid),
                    uid: Some(uid),
                }),
                Err(error) => self.damaged.push(error),
            }
        }
        Ok(being_changed)
    }

    /// Adds an object, unless it is outside of the scope, or another object has taken its name.
    fn put(&mut self, object: Object) {
        let key = object.key();
        let is_replaced = match self.objects.get(&key) {
            Some(Ok(other)) => other.uid() != object.uid() && !records::is_newer(&object, other),
            _ => false,
        };
        if self.scope.contains(object.namespace()) && !is_replaced {
            self.objects.insert(key, Ok(Arc::new(object)));
        }
    }

    /// Reads a changed object. Returns `false` if it is being changed.
    fn read_again(&mut self, store: &Store, id: &Id, wait: Wait) -> bool {
        match (store.records(&self.resource), &id.uid) {
            (Some(records), Some(uid)) => return self.read_record(records, &id.key, uid, wait),
            // Only lines of other builds name such an object without its UID.
            (Some(_), None) => return true,
            (None, _) => {}
        }
        let found = match wait {
            Wait::Yes => store.find(&self.resource, &id.key),
            // The caller holds the store's lock.
            Wait::No => store.find_locked(&self.resource, &id.key),
        };
        match found.transpose() {
            Some(object) => self.objects.insert(id.key.clone(), object.map(Arc::new)),
            None => self.objects.remove(&id.key),
        };
        true
    }

    fn read_record(&mut self, records: &dyn Records, key: &Key, uid: &str, wait: Wait) -> bool {
        let is_other = |known: &Result<Arc<Object>, _>| known.as_ref().is_ok_and(|known| known.uid() != uid);
        match records::try_read(records, &self.resource, uid, wait) {
            Ok(Reading::BeingChanged) => return false,
            Ok(Reading::Found(object)) => self.put(*object),
            // Keep another object of the same name.
            Ok(Reading::Absent) if self.objects.get(key).is_some_and(is_other) => {}
            Ok(Reading::Absent) => {
                self.objects.remove(key);
            }
            Err(_) if self.objects.get(key).is_some_and(is_other) => {}
            Err(error) => {
                self.objects.insert(key.clone(), Err(error));
            }
        }
        true
    }

    fn into_list(self, version: u64) -> List {
        let mut list = List {
            items: Vec::with_capacity(self.objects.len()),
            damaged: self.damaged,
            resource_version: ResourceVersion(version),
            resource: self.resource,
            scope: self.scope,
        };
        for object in self.objects.into_values() {
            match object {
                Ok(object) => list.items.push(object),
                Err(error) => list.damaged.push(error),
            }
        }
        list
    }
}

/// The objects that have changed since a version, with the numbers of their types; `None` if that is not known.
fn changed_since(
    types: &[OfType],
    version: u64,
    mut read: impl FnMut(&Position) -> Result<Read, StoreError>,
) -> Result<Option<BTreeSet<(usize, Id)>>, StoreError> {
    let mut position = Position::after(version);
    let mut changed = BTreeSet::new();
    loop {
        let Read::Changes(changes) = read(&position)? else {
            return Ok(None);
        };
        let Some((_, last)) = changes.last() else {
            return Ok(Some(changed));
        };
        position = last.clone();
        for (change, _) in changes {
            for (index, _) in types.iter().enumerate().filter(|(_, known)| known.contains(&change)) {
                let (key, uid) = (change.key(), change.uid.clone());
                changed.insert((index, Id { key, uid }));
            }
        }
    }
}
