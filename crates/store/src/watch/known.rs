//! The objects of a type as a watch has reported them, and their differences from other objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::observed::{Event, Observed};
use crate::error::StoreError;
use crate::journal::Change;
use crate::key::Key;
use crate::list::List;
use crate::object::Object;
use crate::records::{self, Reading, Wait};
use crate::resource::{Resource, Scope};
use crate::store::Store;
use crate::version::ResourceVersion;

/// Events with their versions.
pub(super) type Events<T> = Vec<(u64, Event<T>)>;

/// A type that a watch follows.
#[derive(Debug)]
pub(super) struct Followed<T> {
    pub(super) resource: Resource,
    /// The type's name in the journal.
    name: String,
    pub(super) scope: Scope,
    /// The objects as reported.
    known: BTreeMap<Key, T>,
}

/// The changes of an object in the journal.
#[derive(Debug, Clone, Default)]
pub(super) struct Changed {
    /// Version of the last change.
    pub(super) last: u64,
    /// Versions of the removals, lowest first.
    pub(super) removals: Vec<u64>,
}

impl Changed {
    pub(super) fn add(&mut self, change: &Change) {
        self.last = change.version;
        if change.deleted {
            self.removals.push(change.version);
        }
    }
}

impl<T: Observed> Followed<T> {
    pub(super) fn new(list: &List) -> Self {
        let items = list.items.iter();
        Self {
            resource: list.resource.clone(),
            name: list.resource.qualified_plural(),
            scope: list.scope.clone(),
            known: items.map(|object| (object.key(), T::of(Arc::clone(object)))).collect(),
        }
    }

    pub(super) fn contains(&self, change: &Change) -> bool {
        change.resource == self.name && self.scope.contains(change.namespace.as_deref())
    }

    /// Reports how an object differs from the one that was last reported. A change later than `changed.last` is
    /// reported once the journal has been read that far. `uid` is the UID of the changed object, if the journal has it.
    pub(super) fn compare(
        &mut self,
        key: Key,
        uid: Option<&str>,
        changed: &Changed,
        object: Option<Object>,
        events: &mut Events<T>,
    ) {
        let is_known = |uid: &str| self.known.get(&key).is_some_and(|known| known.uid() == uid);
        if object.is_none() && uid.is_some_and(|uid| !is_known(uid)) {
            // Another object has the name of the changed object.
            return;
        }
        let version = object
            .as_ref()
            .and_then(Object::resource_version)
            .map_or(0, |version| version.0);
        let is_replaced = |known: &T| object.as_ref().is_none_or(|object| object.uid() != known.uid());
        if let Some(known) = self.known.get(&key).filter(|known| is_replaced(known)) {
            // If a removal in the journal is later than the existing object, its writer was killed before the removal.
            let of_known = |removal: &u64| object.is_none() || *removal < version;
            if let Some(removal) = changed.removals.iter().copied().rfind(of_known) {
                events.push((removal, Event::Deleted(known.at(ResourceVersion(removal)))));
                self.known.remove(&key);
            }
        }
        let Some(object) = object else { return };
        let known_version = self
            .known
            .get(&key)
            .and_then(|known| known.resource_version())
            .map_or(0, |version| version.0);
        if version > changed.last || version <= known_version {
            return;
        }
        if let Some(known) = self.known.get(&key).filter(|known| known.uid() != object.uid()) {
            // The known object was removed while it could not be read.
            let removal = version.saturating_sub(1);
            events.push((removal, Event::Deleted(known.at(ResourceVersion(removal)))));
            self.known.remove(&key);
        }
        let object = T::of(Arc::new(object));
        let event = match self.known.insert(key, object.clone()) {
            Some(_) => Event::Modified(object),
            None => Event::Added(object),
        };
        events.push((version, event));
    }

    /// Reports how the objects of a new list differ from those that were last reported. Returns why objects cannot be
    /// read.
    pub(super) fn compare_all(&mut self, store: &Store, list: List, events: &mut Events<T>) -> Vec<StoreError> {
        let version = list.resource_version.0;
        let mut before = std::mem::take(&mut self.known);
        for object in list.items {
            let key = object.key();
            let object = T::of(object);
            let at = object.resource_version().map_or(version, |version| version.0);
            match before.remove(&key) {
                Some(known) if known.uid() != object.uid() => {
                    // The removal gets a version before the addition of the new object.
                    let removed = at.saturating_sub(1);
                    let gone = known.at(ResourceVersion(removed));
                    events.push((removed, Event::Deleted(gone)));
                    events.push((at, Event::Added(object.clone())));
                }
                Some(known) if known.resource_version() == object.resource_version() => {}
                Some(_) => events.push((at, Event::Modified(object.clone()))),
                None => events.push((at, Event::Added(object.clone()))),
            }
            self.known.insert(key, object);
        }
        let unreadable = !list.damaged.is_empty();
        for (key, known) in before {
            // An object that cannot be read may exist.
            if unreadable && !self.is_gone(store, &key, &known) {
                self.known.insert(key, known);
                continue;
            }
            events.push((version, Event::Deleted(known.at(list.resource_version))));
        }
        list.damaged
    }

    fn is_gone(&self, store: &Store, key: &Key, known: &T) -> bool {
        match store.records(&self.resource) {
            Some(records) => matches!(
                records::try_read(records, &self.resource, known.uid(), Wait::Yes),
                Ok(Reading::Absent)
            ),
            None => matches!(store.find(&self.resource, key), Ok(None)),
        }
    }
}
