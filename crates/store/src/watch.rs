//! Following the objects of a type.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use microkube_base::file_lock::Sharing;
use microkube_base::private_directory;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::error::StoreError;
use crate::journal::{Position, Read};
use crate::key::Key;
use crate::list::List;
use crate::object::Object;
use crate::resource::{Resource, Scope};
use crate::store::Store;
use crate::version::ResourceVersion;

/// How many objects are read while others wait.
const BATCH: usize = 64;

/// A change of an object. Its version is that of the change.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<T = Arc<Object>> {
    Added(T),
    Modified(T),
    /// As the watch last reported it.
    Deleted(T),
}

impl<T> Event<T> {
    #[must_use]
    pub fn object(&self) -> &T {
        match self {
            Self::Added(object) | Self::Modified(object) | Self::Deleted(object) => object,
        }
    }
}

/// An object without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    pub key: Key,
    pub uid: String,
    pub resource_version: ResourceVersion,
}

/// What a watch reports of an object, and keeps in memory to compare it with the next version. The module is private, so
/// only the types here implement it.
pub trait Observed: Clone {
    fn of(object: Arc<Object>) -> Self;
    fn uid(&self) -> &str;
    fn resource_version(&self) -> Option<ResourceVersion>;
    /// The same with another version.
    fn at(&self, version: ResourceVersion) -> Self;
}

impl Observed for Arc<Object> {
    fn of(object: Arc<Object>) -> Self {
        object
    }

    fn uid(&self) -> &str {
        Object::uid(self)
    }

    fn resource_version(&self) -> Option<ResourceVersion> {
        Object::resource_version(self)
    }

    fn at(&self, version: ResourceVersion) -> Self {
        Self::new(Object::clone(self).at(version))
    }
}

impl Observed for ObjectVersion {
    fn of(object: Arc<Object>) -> Self {
        Self {
            key: object.key(),
            uid: object.uid().to_owned(),
            // A stored object has one.
            resource_version: object.resource_version().unwrap_or(ResourceVersion(0)),
        }
    }

    fn uid(&self) -> &str {
        &self.uid
    }

    fn resource_version(&self) -> Option<ResourceVersion> {
        Some(self.resource_version)
    }

    fn at(&self, version: ResourceVersion) -> Self {
        Self {
            resource_version: version,
            ..self.clone()
        }
    }
}

/// The changes of a type's objects since a list, in the order of their versions. Changes of one object may be merged:
/// then the last one is reported.
///
/// [`Self::try_next`] does not wait; [`Self::next_until`] and the iterator do. An event loop waits until the descriptor is
/// readable, and then calls `try_next` until it returns `None`.
#[derive(Debug)]
pub struct Watch<T = Arc<Object>> {
    store: Store,
    resource: Resource,
    scope: Scope,
    position: Position,
    /// The objects as reported.
    known: BTreeMap<Key, T>,
    pending: VecDeque<Event<T>>,
    /// Objects that could not be read.
    errors: VecDeque<StoreError>,
    inotify: Inotify,
}

impl Store {
    /// Follows the objects of a list from its version on.
    ///
    /// # Errors
    /// If the kernel's limit of inotify instances or watches is reached.
    pub fn watch(&self, list: &List) -> Result<Watch, StoreError> {
        self.follow(list)
    }

    /// Does what [`Self::watch`] does, but neither reports nor keeps the content of objects.
    ///
    /// # Errors
    /// See [`Self::watch`].
    pub fn watch_versions(&self, list: &List) -> Result<Watch<ObjectVersion>, StoreError> {
        self.follow(list)
    }

    fn follow<T: Observed>(&self, list: &List) -> Result<Watch<T>, StoreError> {
        let directory = self.journal_directory();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|errno| {
            let action = "watch (fs.inotify.max_user_instances may be reached; raise it with sysctl)";
            StoreError::io(action, directory)(errno.into())
        })?;
        let items = list.items.iter();
        let watch = Watch {
            store: self.clone(),
            resource: list.resource.clone(),
            scope: list.scope.clone(),
            position: Position::after(list.resource_version.0),
            known: items.map(|object| (object.key(), T::of(Arc::clone(object)))).collect(),
            pending: VecDeque::new(),
            errors: VecDeque::new(),
            inotify,
        };
        watch.add_watch()?;
        Ok(watch)
    }
}

impl<T> AsFd for Watch<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

impl<T: Observed> Watch<T> {
    /// All changes up to this version have been returned, once [`Self::try_next`] returns `None`.
    #[must_use]
    pub fn resource_version(&self) -> ResourceVersion {
        ResourceVersion(self.position.version)
    }

    /// The next change, if there is one. The watch continues after an error about an object.
    ///
    /// # Errors
    /// If an object or the journal cannot be read.
    pub fn try_next(&mut self) -> Result<Option<Event<T>>, StoreError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            if let Some(error) = self.errors.pop_front() {
                return Err(error);
            }
            // Before the journal is read: a later change makes the descriptor readable again.
            self.drain()?;
            if !self.advance()? {
                return Ok(None);
            }
        }
    }

    /// Waits for the next change; `None` if there is none until the deadline.
    ///
    /// # Errors
    /// See [`Self::try_next`].
    pub fn next_until(&mut self, deadline: Option<Instant>) -> Result<Option<Event<T>>, StoreError> {
        loop {
            if let Some(event) = self.try_next()? {
                return Ok(Some(event));
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(None);
            }
            let timeout = match left {
                // The timeout is rounded down, but the deadline must have passed.
                Some(left) => PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            match nix::poll::poll(&mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.error("wait for changes of")(errno.into())),
            }
        }
    }

    /// Discards the notifications: they only say that the journal has changed, and so does an overflow.
    fn drain(&mut self) -> Result<(), StoreError> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    if events
                        .iter()
                        .any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
                    {
                        // The directory was removed. The journal in it is lost, which is a gap.
                        self.add_watch()?;
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.error("watch")(errno.into())),
            }
        }
    }

    fn add_watch(&self) -> Result<(), StoreError> {
        let directory = self.store.journal_directory();
        private_directory::create(directory).map_err(self.error("create"))?;
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.inotify.add_watch(directory, changes).map_err(|errno| {
            let action = match errno {
                Errno::ENOSPC => "watch (fs.inotify.max_user_watches is reached; raise it with sysctl)",
                _ => "watch",
            };
            self.error(action)(errno.into())
        })?;
        Ok(())
    }

    fn error(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> StoreError + use<T> {
        StoreError::io(action, self.store.journal_directory())
    }

    /// Reads the next changes from the journal; `false` if there are none.
    fn advance(&mut self) -> Result<bool, StoreError> {
        let locked = self.store.lock(Sharing::Shared)?;
        let changes = match locked.changes_after(&self.position)? {
            Read::Changes(changes) => changes,
            Read::Gap => {
                drop(locked);
                self.relist()?;
                return Ok(true);
            }
        };
        // The last change of each object, and its removals.
        let mut changed: BTreeMap<Key, Changed> = BTreeMap::new();
        let mut position = self.position.clone();
        for (change, after) in changes {
            if change.resource == self.resource.qualified_plural() && self.scope.contains(change.namespace.as_deref()) {
                let key = change.key();
                if changed.len() == BATCH && !changed.contains_key(&key) {
                    break;
                }
                let entry = changed.entry(key).or_default();
                entry.last = change.version;
                if change.deleted {
                    entry.removals.push(change.version);
                }
            }
            position = after;
        }
        if position == self.position {
            return Ok(false);
        }
        let mut found = Vec::with_capacity(changed.len());
        for (key, changed) in changed {
            let object = self.store.find_locked(&self.resource, &key);
            found.push((key, changed, object));
        }
        drop(locked);
        self.position = position;
        let mut events = Vec::new();
        for (key, changed, object) in found {
            match object {
                Ok(object) => self.compare(key, &changed, object, &mut events),
                Err(error) => self.errors.push_back(error),
            }
        }
        self.report(events);
        Ok(true)
    }

    /// Reports how an object differs from the one that was reported. A change later than `changed.last` is reported when
    /// the journal has been read that far.
    fn compare(&mut self, key: Key, changed: &Changed, object: Option<Object>, events: &mut Vec<(u64, Event<T>)>) {
        let version = object
            .as_ref()
            .and_then(Object::resource_version)
            .map_or(0, |version| version.0);
        let is_replaced = |known: &T| object.as_ref().is_none_or(|object| object.uid() != known.uid());
        if let Some(known) = self.known.get(&key).filter(|known| is_replaced(known)) {
            // A removal later than the object that exists was announced, but its writer was killed before it.
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

    fn report(&mut self, mut events: Vec<(u64, Event<T>)>) {
        events.sort_by_key(|(version, _)| *version);
        self.pending.extend(events.into_iter().map(|(_, event)| event));
    }

    /// Lists all objects again, because the journal does not reach back far enough, and reports the differences.
    fn relist(&mut self) -> Result<(), StoreError> {
        let list = self.store.list(&self.resource, &self.scope)?;
        let version = list.resource_version.0;
        let mut events = Vec::new();
        let mut before = std::mem::take(&mut self.known);
        for object in list.items {
            let key = object.key();
            let object = T::of(object);
            let at = object.resource_version().map_or(version, |version| version.0);
            match before.remove(&key) {
                Some(known) if known.uid() != object.uid() => {
                    // Before the new object is added.
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
        self.errors.extend(list.damaged);
        for (key, known) in before {
            // What cannot be read may exist.
            if unreadable && !matches!(self.store.find(&self.resource, &key), Ok(None)) {
                self.known.insert(key, known);
                continue;
            }
            events.push((version, Event::Deleted(known.at(list.resource_version))));
        }
        self.position = Position::after(version);
        self.report(events);
        Ok(())
    }
}

/// What the journal says about an object.
#[derive(Debug, Clone, Default)]
struct Changed {
    /// Version of its last change.
    last: u64,
    /// Versions of its removals, lowest first.
    removals: Vec<u64>,
}

/// Waits for each change, without end.
impl<T: Observed> Iterator for Watch<T> {
    type Item = Result<Event<T>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).transpose()
    }
}

#[cfg(test)]
mod tests;
