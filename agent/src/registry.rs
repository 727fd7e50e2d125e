//! Objects of the agent, by the ids that the host gives them. Ids are unique, and the number of objects is limited.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::lock::lock;

/// Why an id cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RegistryError {
    #[error("{what} ID {id:?} was already used")]
    Used { what: &'static str, id: String },
    #[error("no {what} {id:?}")]
    Unknown { what: &'static str, id: String },
    #[error("{what} {id:?} is still starting")]
    Starting { what: &'static str, id: String },
    #[error("cannot create another {what}: the limit is {limit}")]
    Full { what: &'static str, limit: usize },
}

/// All objects of one kind.
#[derive(Debug)]
pub struct Registry<T> {
    what: &'static str,
    limit: usize,
    slots: Mutex<HashMap<String, Slot<T>>>,
}

/// The object of an id.
#[derive(Debug)]
enum Slot<T> {
    /// An object that is being started; notified when the start is cancelled.
    Starting(Arc<Notify>),
    /// A started object.
    Started(Arc<T>),
}

/// The id of an object that is being started; free again if this is dropped without being filled.
#[derive(Debug)]
pub struct Reservation<'a, T> {
    registry: &'a Registry<T>,
    id: String,
    unwanted: Arc<Notify>,
}

impl<T> Registry<T> {
    /// An empty registry. `what` is the name for one of its objects in messages.
    pub fn new(what: &'static str, limit: usize) -> Self {
        Self {
            what,
            limit,
            slots: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Slot<T>>> {
        lock(&self.slots)
    }

    /// Reserves an id.
    pub fn reserve(&self, id: &str) -> Result<Reservation<'_, T>, RegistryError> {
        let (what, limit) = (self.what, self.limit);
        let mut slots = self.lock();
        if slots.contains_key(id) {
            return Err(RegistryError::Used {
                what,
                id: id.to_owned(),
            });
        }
        if slots.len() >= limit {
            return Err(RegistryError::Full { what, limit });
        }
        let unwanted = Arc::new(Notify::new());
        slots.insert(id.to_owned(), Slot::Starting(Arc::clone(&unwanted)));
        Ok(Reservation {
            registry: self,
            id: id.to_owned(),
            unwanted,
        })
    }

    /// The object with this id.
    pub fn get(&self, id: &str) -> Result<Arc<T>, RegistryError> {
        let what = self.what;
        let id = id.to_owned();
        match self.lock().get(&id) {
            Some(Slot::Started(thing)) => Ok(Arc::clone(thing)),
            Some(Slot::Starting(_)) => Err(RegistryError::Starting { what, id }),
            None => Err(RegistryError::Unknown { what, id }),
        }
    }

    /// Cancels the start of the object with this id; returns false if it is not being started.
    pub fn give_up_start(&self, id: &str) -> bool {
        match self.lock().get(id) {
            Some(Slot::Starting(unwanted)) => {
                unwanted.notify_one();
                true
            }
            Some(Slot::Started(_)) | None => false,
        }
    }

    /// Removes an object, unless its id refers to another one by now.
    pub fn remove(&self, id: &str, thing: &Arc<T>) {
        let mut slots = self.lock();
        if matches!(slots.get(id), Some(Slot::Started(there)) if Arc::ptr_eq(there, thing)) {
            slots.remove(id);
        }
    }

    /// All started objects, by id.
    pub fn all(&self) -> Vec<(String, Arc<T>)> {
        let slots = self.lock();
        let started = slots.iter().filter_map(|(id, slot)| match slot {
            Slot::Started(thing) => Some((id.clone(), Arc::clone(thing))),
            Slot::Starting(_) => None,
        });
        let mut all: Vec<_> = started.collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all
    }
}

impl<T> Reservation<'_, T> {
    /// Notified by [`Registry::give_up_start`], even if that call came before there was a listener.
    pub fn unwanted(&self) -> Arc<Notify> {
        Arc::clone(&self.unwanted)
    }

    /// Replaces the reservation with the started object.
    pub fn fill(self, thing: T) -> Arc<T> {
        let thing = Arc::new(thing);
        self.registry
            .lock()
            .insert(self.id.clone(), Slot::Started(Arc::clone(&thing)));
        thing
    }
}

impl<T> Drop for Reservation<'_, T> {
    fn drop(&mut self) {
        let mut slots = self.registry.lock();
        if matches!(slots.get(&self.id), Some(Slot::Starting(_))) {
            slots.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_unique_and_freed_when_its_start_fails() {
        let registry = Registry::<u8>::new("container", 10);
        let reservation = registry.reserve("web-0").unwrap();
        assert!(matches!(registry.reserve("web-0"), Err(RegistryError::Used { .. })));
        assert!(matches!(registry.get("web-0"), Err(RegistryError::Starting { .. })));
        drop(reservation);
        assert!(matches!(registry.get("web-0"), Err(RegistryError::Unknown { .. })));
        let thing = registry.reserve("web-0").unwrap().fill(1);
        assert_eq!(registry.get("web-0"), Ok(Arc::clone(&thing)));
        assert!(matches!(registry.reserve("web-0"), Err(RegistryError::Used { .. })));
        registry.remove("web-0", &thing);
        let second = registry.reserve("web-0").unwrap().fill(1);
        registry.remove("web-0", &thing);
        assert!(Arc::ptr_eq(&registry.get("web-0").unwrap(), &second));
    }

    #[tokio::test]
    async fn a_start_can_be_cancelled_by_id_only_while_it_is_pending() {
        let registry = Registry::<u8>::new("process", 10);
        assert!(!registry.give_up_start("p-1"));
        let reservation = registry.reserve("p-1").unwrap();
        let unwanted = reservation.unwanted();
        assert!(registry.give_up_start("p-1"));
        // Cancel before there is a listener.
        unwanted.notified().await;
        reservation.fill(1);
        assert!(!registry.give_up_start("p-1"));
    }

    #[test]
    fn no_more_entries_than_the_limit_are_kept() {
        let registry = Registry::<u8>::new("process", 2);
        let one = registry.reserve("a").unwrap().fill(1);
        let _starting = registry.reserve("b").unwrap();
        let error = registry.reserve("c").unwrap_err();
        assert_eq!(error.to_string(), "cannot create another process: the limit is 2");
        registry.remove("a", &one);
        assert!(registry.reserve("c").is_ok());
    }

    #[test]
    fn entries_being_started_are_not_listed() {
        let registry = Registry::<u8>::new("container", 10);
        let _starting = registry.reserve("a").unwrap();
        registry.reserve("c").unwrap().fill(3);
        registry.reserve("b").unwrap().fill(2);
        let all: Vec<_> = registry.all().into_iter().map(|(id, thing)| (id, *thing)).collect();
        assert_eq!(all, [("b".to_owned(), 2), ("c".to_owned(), 3)]);
    }
}
