//! POSIX locks of the guest's processes, as open-file-description locks of the host.
//!
//! A lock belongs to an owner in the guest, whichever of its descriptors it uses (fcntl(2)). Each owner with locks of a
//! file therefore has a separate descriptor for that file: its locks do not conflict with each other, and they
//! conflict with those of other owners, other Pods and the host's processes.
//!
//! An owner's locks end when it closes any descriptor of the file (FLUSH), and when all files through which it locked are
//! closed (RELEASE): the owner of a lock by `F_OFD_SETLK` in the guest is the open file itself, which never flushes.
//!
//! Locks by flock(2) need nothing here: they belong to the open file, which has its own descriptor anyway, and at most
//! one of them.

pub mod description;
mod owner;
pub mod ranges;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use owner::{OwnerFile, RangeBudget};
use waiting::WaitingSlots;

/// An owner in the guest and the number of the inode that it locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerKey {
    pub inode: u64,
    pub owner: u64,
}

#[derive(Debug)]
struct Owner {
    file: Arc<OwnerFile>,
    /// The handles through which it locked.
    handles: BTreeSet<u64>,
    /// Requests that use the descriptor at the moment; some wait for a lock.
    in_use: usize,
}

#[derive(Debug, Default)]
struct Owners {
    by_key: BTreeMap<OwnerKey, Owner>,
    /// How many handles all of them have.
    handles: usize,
}

/// The owners of locks.
#[derive(Debug)]
pub struct Locks {
    owners: Mutex<Owners>,
    /// Maximum number of owners.
    limit: usize,
    /// Maximum number of their handles.
    handle_limit: usize,
    ranges: Arc<RangeBudget>,
    pub waiting: WaitingSlots,
}

/// An owner's descriptor, which stays until the value is dropped.
#[derive(Debug)]
pub struct UsedOwner<'a> {
    locks: &'a Locks,
    key: OwnerKey,
    file: Arc<OwnerFile>,
}

impl UsedOwner<'_> {
    pub fn file(&self) -> &OwnerFile {
        &self.file
    }
}

impl Drop for UsedOwner<'_> {
    fn drop(&mut self) {
        let mut owners = self.locks.owners();
        let Some(owner) = owners.by_key.get_mut(&self.key) else {
            return;
        };
        if !Arc::ptr_eq(&owner.file, &self.file) {
            return;
        }
        owner.in_use = owner.in_use.saturating_sub(1);
        if owner.in_use == 0 && owner.handles.is_empty() {
            owners.by_key.remove(&self.key);
        }
    }
}

impl Owners {
    /// The descriptor of an owner that now locks through this handle, too; nothing if there is no such owner.
    fn known(&mut self, key: OwnerKey, handle: u64, handle_limit: usize) -> Result<Option<Arc<OwnerFile>>, Errno> {
        let Some(owner) = self.by_key.get_mut(&key) else {
            return Ok(None);
        };
        if !owner.handles.contains(&handle) {
            if self.handles >= handle_limit {
                return Err(Errno::NOLCK);
            }
            owner.handles.insert(handle);
            self.handles += 1;
        }
        owner.in_use += 1;
        Ok(Some(owner.file.clone()))
    }

    /// Unlocks everything of an owner, and removes it unless a request uses it.
    fn end(&mut self, key: OwnerKey) {
        let Some(owner) = self.by_key.get_mut(&key) else { return };
        self.handles = self.handles.saturating_sub(owner.handles.len());
        owner.handles.clear();
        // Explicitly, because a request may keep the descriptor open for a moment.
        owner.file.end();
        if owner.in_use == 0 {
            self.by_key.remove(&key);
        }
    }
}

impl Locks {
    /// Bounds the number of owners, and that of the ranges that they have locked. Handles through which owners have
    /// locked have the same bound as ranges.
    pub fn new(owners: usize, ranges: usize) -> Self {
        Self {
            owners: Mutex::default(),
            limit: owners,
            handle_limit: ranges,
            ranges: Arc::new(RangeBudget::new(ranges)),
            waiting: WaitingSlots::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor of an owner that locks through a handle; `open` opens one for a new owner.
    pub fn owner(
        &self,
        key: OwnerKey,
        handle: u64,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<UsedOwner<'_>, Errno> {
        let found = self.owners().known(key, handle, self.handle_limit)?;
        let file = match found {
            Some(file) => file,
            None => {
                // Not under the lock: it may take long.
                let opened = Arc::new(OwnerFile::new(open()?, self.ranges.clone()));
                let mut owners = self.owners();
                match owners.known(key, handle, self.handle_limit)? {
                    Some(file) => file,
                    None if owners.by_key.len() >= self.limit || owners.handles >= self.handle_limit => {
                        return Err(Errno::NOLCK);
                    }
                    None => {
                        let owner = Owner {
                            file: opened.clone(),
                            handles: BTreeSet::from([handle]),
                            in_use: 1,
                        };
                        owners.by_key.insert(key, owner);
                        owners.handles += 1;
                        opened
                    }
                }
            }
        };
        Ok(UsedOwner { locks: self, key, file })
    }

    /// The descriptor of an owner that has locks.
    pub fn existing(&self, key: OwnerKey) -> Option<UsedOwner<'_>> {
        let mut owners = self.owners();
        let owner = owners.by_key.get_mut(&key)?;
        owner.in_use += 1;
        Some(UsedOwner {
            locks: self,
            key,
            file: owner.file.clone(),
        })
    }

    /// The owner closed a descriptor of the file: all its locks of the file end.
    pub fn close_owner(&self, key: OwnerKey) {
        self.owners().end(key);
    }

    /// A handle was closed: the locks of owners that used only this handle end.
    pub fn close_handle(&self, inode: u64, handle: u64) {
        let mut owners = self.owners();
        let owners = &mut *owners;
        let of_inode = OwnerKey { inode, owner: 0 }..=OwnerKey { inode, owner: u64::MAX };
        let mut ended = Vec::new();
        for (key, owner) in owners.by_key.range_mut(of_inode) {
            if owner.handles.remove(&handle) {
                owners.handles = owners.handles.saturating_sub(1);
                if owner.handles.is_empty() {
                    ended.push(*key);
                }
            }
        }
        for key in ended {
            owners.end(key);
        }
    }

    /// Ends all locks.
    pub fn clear(&self) {
        let mut owners = self.owners();
        let keys: Vec<OwnerKey> = owners.by_key.keys().copied().collect();
        for key in keys {
            owners.end(key);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.owners().by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::ranges::Lock;
    use super::*;
    use crate::protocol::locks::{LockRange, LockType};

    const KEY: OwnerKey = OwnerKey { inode: 2, owner: 7 };

    fn open(directory: &tempfile::TempDir) -> Result<OwnedFd, Errno> {
        let path = directory.path().join("file");
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path);
        Ok(file.unwrap().into())
    }

    /// Locks the whole file for an owner.
    fn lock(locks: &Locks, directory: &tempfile::TempDir, key: OwnerKey, handle: u64) -> Result<(), Errno> {
        let owner = locks.owner(key, handle, || open(directory))?;
        owner.file().set(Lock {
            range: LockRange::WHOLE_FILE,
            lock_type: LockType::Exclusive,
        })
    }

    #[test]
    fn an_owner_s_locks_end_with_any_of_its_closes() {
        let directory = tempfile::tempdir().unwrap();
        let (locks, others) = (Locks::new(10, 10), Locks::new(10, 10));
        lock(&locks, &directory, KEY, 1).unwrap();
        lock(&locks, &directory, KEY, 2).unwrap();
        assert_eq!(lock(&others, &directory, KEY, 1), Err(Errno::AGAIN));
        locks.close_owner(KEY);
        assert_eq!(locks.count(), 0);
        lock(&others, &directory, KEY, 1).unwrap();
    }

    #[test]
    fn an_owner_s_locks_end_when_all_handles_it_used_are_closed() {
        let directory = tempfile::tempdir().unwrap();
        let (locks, others) = (Locks::new(10, 10), Locks::new(10, 10));
        lock(&locks, &directory, KEY, 1).unwrap();
        lock(&locks, &directory, KEY, 2).unwrap();
        locks.close_handle(KEY.inode, 1);
        locks.close_handle(KEY.inode, 3);
        locks.close_handle(KEY.inode + 1, 2);
        assert_eq!(lock(&others, &directory, KEY, 1), Err(Errno::AGAIN));
        locks.close_handle(KEY.inode, 2);
        lock(&others, &directory, KEY, 1).unwrap();
    }

    #[test]
    fn a_descriptor_in_use_stays_until_its_request_ends() {
        let directory = tempfile::tempdir().unwrap();
        let locks = Locks::new(10, 10);
        let used = locks.owner(KEY, 1, || open(&directory)).unwrap();
        locks.close_owner(KEY);
        assert!(locks.existing(KEY).is_some());
        drop(used);
        assert!(locks.existing(KEY).is_none());
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let locks = Locks::new(2, 10);
        for owner in 0..3 {
            let key = OwnerKey { inode: 2, owner };
            let result = locks.owner(key, 1, || open(&directory)).map(|_| ());
            assert_eq!(result, if owner < 2 { Ok(()) } else { Err(Errno::NOLCK) });
        }
        assert_eq!(locks.count(), 2);
    }

    #[test]
    fn the_number_of_handles_of_all_owners_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let locks = Locks::new(10, 4);
        let other = OwnerKey { owner: 8, ..KEY };
        let use_handle = |key, handle| locks.owner(key, handle, || open(&directory)).map(|_| ());
        for handle in [1, 2, 1] {
            assert_eq!((use_handle(KEY, handle), use_handle(other, handle)), (Ok(()), Ok(())));
        }
        assert_eq!(use_handle(KEY, 3), Err(Errno::NOLCK));
        assert_eq!(use_handle(OwnerKey { owner: 9, ..KEY }, 1), Err(Errno::NOLCK));
        assert_eq!(use_handle(KEY, 2), Ok(()));
        locks.close_handle(KEY.inode, 1);
        assert_eq!((use_handle(KEY, 3), use_handle(KEY, 4)), (Ok(()), Ok(())));
        assert_eq!(use_handle(other, 5), Err(Errno::NOLCK));
        locks.close_owner(KEY);
        assert_eq!(use_handle(other, 5), Ok(()));
    }
}
