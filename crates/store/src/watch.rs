//! Watches: the changes of objects after a list.

mod known;
mod observed;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use microkube_base::file_lock::Sharing;
use microkube_base::private_directory;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use self::known::{Changed, Events, Followed};
use self::observed::Observed;
pub use self::observed::{Event, ObjectVersion};
use crate::error::StoreError;
use crate::journal::{Position, Read};
use crate::key::Key;
use crate::list::List;
use crate::object::Object;
use crate::records;
use crate::store::Store;
use crate::version::ResourceVersion;

/// Maximum number of objects that are read while writers wait.
const BATCH: usize = 64;

/// The changes of the objects of types since a list, in the order of their versions. Changes of one object may be
/// merged; the last one is then reported.
///
/// [`Self::try_next`] does not wait for a change; [`Self::next_until`] and the iterator do. An event loop waits until
/// the descriptor is readable, and then calls `try_next` until it returns `None`.
#[derive(Debug)]
pub struct Watch<T = Arc<Object>> {
    store: Store,
    types: Vec<Followed<T>>,
    position: Position,
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
        self.follow(slice::from_ref(list))
    }

    /// Follows the objects of several lists. The types must differ, and the lists must be the result of one
    /// [`Store::list_all`].
    ///
    /// # Errors
    /// See [`Self::watch`].
    pub fn watch_all(&self, lists: &[List]) -> Result<Watch, StoreError> {
        self.follow(lists)
    }

    /// Does what [`Self::watch`] does, but neither reports nor keeps the content of objects.
    ///
    /// # Errors
    /// See [`Self::watch`].
    pub fn watch_versions(&self, list: &List) -> Result<Watch<ObjectVersion>, StoreError> {
        self.follow(slice::from_ref(list))
    }

    fn follow<T: Observed>(&self, lists: &[List]) -> Result<Watch<T>, StoreError> {
        let directory = self.journal_directory();
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(|errno| {
            let action = "watch (fs.inotify.max_user_instances may be reached; raise it with sysctl)";
            StoreError::io(action, directory)(errno.into())
        })?;
        let versions = lists.iter().map(|list| list.resource_version.0);
        let watch = Watch {
            store: self.clone(),
            types: lists.iter().map(Followed::new).collect(),
            position: Position::after(versions.min().unwrap_or_default()),
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
            // Do this before reading the journal: a later change makes the descriptor readable again.
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

    /// Discards the notifications. They, and an overflow, only mean that the journal has changed.
    fn drain(&mut self) -> Result<(), StoreError> {
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    if events
                        .iter()
                        .any(|event| event.mask.contains(AddWatchFlags::IN_IGNORED))
                    {
                        // The directory was removed, and the journal with it. This is a gap.
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
        let mut changed: BTreeMap<Id, Changed> = BTreeMap::new();
        let mut position = self.position.clone();
        for (change, after) in changes {
            if let Some(of_type) = self.types.iter().position(|followed| followed.contains(&change)) {
                let id = Id {
                    of_type,
                    key: change.key(),
                    uid: change.uid.clone(),
                };
                if changed.len() == BATCH && !changed.contains_key(&id) {
                    break;
                }
                changed.entry(id).or_default().add(&change);
            }
            position = after;
        }
        if position == self.position {
            return Ok(false);
        }
        let mut found = Vec::with_capacity(changed.len());
        let mut elsewhere = Vec::new();
        for (id, changed) in changed {
            let Some(followed) = self.types.get(id.of_type) else {
                continue;
            };
            if self.store.records(&followed.resource).is_some() {
                elsewhere.push((id, changed));
            } else {
                let object = self.store.find_locked(&followed.resource, &id.key);
                found.push((id, changed, object));
            }
        }
        drop(locked);
        // Read these without the store's lock, because their writers may still be between the line and the change. A
        // later change is not lost, because its line comes later as well.
        for (id, changed) in elsewhere {
            if let Some(object) = self.read_record(&id) {
                found.push((id, changed, object));
            }
        }
        self.position = position;
        // An object is compared before another one that has taken its name.
        found.sort_by_key(|(_, changed, _)| changed.last);
        let mut events = Vec::new();
        for (id, changed, object) in found {
            let Some(followed) = self.types.get_mut(id.of_type) else {
                continue;
            };
            match object {
                Ok(object) => followed.compare(id.key, id.uid.as_deref(), &changed, object, &mut events),
                Err(error) => self.errors.push_back(error),
            }
        }
        self.report(events);
        Ok(true)
    }

    /// An object that is kept outside of the store's files, whose UID is in the journal.
    fn read_record(&self, id: &Id) -> Option<Result<Option<Object>, StoreError>> {
        let resource = &self.types.get(id.of_type)?.resource;
        let records = self.store.records(resource)?;
        Some(records::read(records, resource, id.uid.as_deref()?))
    }

    fn report(&mut self, mut events: Events<T>) {
        events.sort_by_key(|(version, _)| *version);
        self.pending.extend(events.into_iter().map(|(_, event)| event));
    }

    /// Lists all objects again, because the journal does not reach back far enough, and reports the differences.
    fn relist(&mut self) -> Result<(), StoreError> {
        let types: Vec<_> = self
            .types
            .iter()
            .map(|followed| (followed.resource.clone(), followed.scope.clone()))
            .collect();
        let lists = self.store.list_all(&types)?;
        let mut events = Vec::new();
        for (followed, list) in self.types.iter_mut().zip(lists) {
            self.position = Position::after(list.resource_version.0);
            self.errors.extend(followed.compare_all(&self.store, list, &mut events));
        }
        self.report(events);
        Ok(())
    }
}

/// A changed object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Id {
    /// Number of the type.
    of_type: usize,
    key: Key,
    /// UID of an object that is kept outside of the store's files.
    uid: Option<String>,
}

/// Waits for each change, without a deadline.
impl<T: Observed> Iterator for Watch<T> {
    type Item = Result<Event<T>, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_until(None).transpose()
    }
}

#[cfg(test)]
mod tests;
