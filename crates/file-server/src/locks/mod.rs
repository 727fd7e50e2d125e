//! POSIX locks of the guest's processes, as open-file-description locks of the host.
//!
//! A lock belongs to an owner in the guest, whichever of its descriptors it uses (fcntl(2)). Each owner with locks of a
//! file therefore has a separate descriptor for that file: its locks do not conflict with each other, and they
//! conflict with those of other owners, other Pods and the host's processes.
//!
//! An owner's locks end when it closes any descriptor of the file (FLUSH), and when all files through which it locked are
//! closed (RELEASE): the owner of a lock by `F_OFD_SETLK` in the guest is the open file itself, which never flushes.
//!
//! Locks by flock(2) need nothing here: they belong to the open file, which has its own descriptor anyway.

pub mod description;
pub mod waiting;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::protocol::locks::{LockRange, LockType};
use waiting::WaitingSlots;

/// An owner in the guest and the number of the inode that it locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OwnerKey {
    pub inode: u64,
    pub owner: u64,
}

#[derive(Debug)]
struct Owner {
    descriptor: Arc<OwnedFd>,
    /// The handles through which it locked.
    handles: BTreeSet<u64>,
    /// Requests that use the descriptor at the moment; some wait for a lock.
    in_use: usize,
}

/// The owners of locks.
#[derive(Debug)]
pub struct Locks {
    owners: Mutex<BTreeMap<OwnerKey, Owner>>,
    limit: usize,
    pub waiting: WaitingSlots,
}

/// An owner's descriptor, which stays until the value is dropped.
#[derive(Debug)]
pub struct UsedOwner<'a> {
    locks: &'a Locks,
    key: OwnerKey,
    descriptor: Arc<OwnedFd>,
}

impl UsedOwner<'_> {
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }
}

impl Drop for UsedOwner<'_> {
    fn drop(&mut self) {
        let mut owners = self.locks.owners();
        let Some(owner) = owners.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&owner.descriptor, &self.descriptor) {
            return;
        }
        owner.in_use = owner.in_use.saturating_sub(1);
        if owner.in_use == 0 && owner.handles.is_empty() {
            owners.remove(&self.key);
        }
    }
}

impl Locks {
    pub fn new(limit: usize) -> Self {
        Self {
            owners: Mutex::default(),
            limit,
            waiting: WaitingSlots::default(),
        }
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<OwnerKey, Owner>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor of an owner that locks through a handle; `open` opens one for a new owner.
    pub fn owner(
        &self,
        key: OwnerKey,
        handle: u64,
        open: impl FnOnce() -> Result<OwnedFd, Errno>,
    ) -> Result<UsedOwner<'_>, Errno> {
        let known = |owners: &mut BTreeMap<OwnerKey, Owner>| {
            let owner = owners.get_mut(&key)?;
            owner.handles.insert(handle);
            owner.in_use += 1;
            Some(owner.descriptor.clone())
        };
        let found = known(&mut self.owners());
        let descriptor = match found {
            Some(descriptor) => descriptor,
            None => {
                // Not under the lock: it may take long.
                let opened = Arc::new(open()?);
                let mut owners = self.owners();
                match known(&mut owners) {
                    Some(descriptor) => descriptor,
                    None if owners.len() >= self.limit => return Err(Errno::NOLCK),
                    None => {
                        let owner = Owner {
                            descriptor: opened.clone(),
                            handles: BTreeSet::from([handle]),
                            in_use: 1,
                        };
                        owners.insert(key, owner);
                        opened
                    }
                }
            }
        };
        Ok(UsedOwner {
            locks: self,
            key,
            descriptor,
        })
    }

    /// The descriptor of an owner that has locks.
    pub fn existing(&self, key: OwnerKey) -> Option<UsedOwner<'_>> {
        let mut owners = self.owners();
        let owner = owners.get_mut(&key)?;
        owner.in_use += 1;
        Some(UsedOwner {
            locks: self,
            key,
            descriptor: owner.descriptor.clone(),
        })
    }

    /// The owner closed a descriptor of the file: all its locks of the file end.
    pub fn close_owner(&self, key: OwnerKey) {
        let mut owners = self.owners();
        if let Some(owner) = owners.get_mut(&key) {
            owner.handles.clear();
            end_owner(&mut owners, key);
        }
    }

    /// A handle was closed: the locks of owners that used only this handle end.
    pub fn close_handle(&self, inode: u64, handle: u64) {
        let mut owners = self.owners();
        let of_inode = OwnerKey { inode, owner: 0 }..=OwnerKey { inode, owner: u64::MAX };
        let mut ended = Vec::new();
        for (key, owner) in owners.range_mut(of_inode) {
            if owner.handles.remove(&handle) && owner.handles.is_empty() {
                ended.push(*key);
            }
        }
        for key in ended {
            end_owner(&mut owners, key);
        }
    }

    /// Ends all locks.
    pub fn clear(&self) {
        let mut owners = self.owners();
        let keys: Vec<OwnerKey> = owners.keys().copied().collect();
        for key in keys {
            end_owner(&mut owners, key);
        }
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.owners().len()
    }
}

/// Unlocks everything of an owner, and removes it unless a request uses it.
fn end_owner(owners: &mut BTreeMap<OwnerKey, Owner>, key: OwnerKey) {
    let Some(owner) = owners.get(&key) else { return };
    // Explicitly, because a request may keep the descriptor open for a moment. It fails only for file systems of a
    // network that is down; the host's kernel unlocks when the descriptor is closed.
    let _ = description::set(&*owner.descriptor, LockType::Unlock, LockRange::WHOLE_FILE, false);
    if owner.in_use == 0 {
        owners.remove(&key);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

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
        description::set(owner.descriptor(), LockType::Exclusive, LockRange::WHOLE_FILE, false)
    }

    #[test]
    fn an_owner_s_locks_end_with_any_of_its_closes() {
        let directory = tempfile::tempdir().unwrap();
        let (locks, others) = (Locks::new(10), Locks::new(10));
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
        let (locks, others) = (Locks::new(10), Locks::new(10));
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
        let locks = Locks::new(10);
        let used = locks.owner(KEY, 1, || open(&directory)).unwrap();
        locks.close_owner(KEY);
        assert!(locks.existing(KEY).is_some());
        drop(used);
        assert!(locks.existing(KEY).is_none());
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let locks = Locks::new(2);
        for owner in 0..3 {
            let key = OwnerKey { inode: 2, owner };
            let result = locks.owner(key, 1, || open(&directory)).map(|_| ());
            assert_eq!(result, if owner < 2 { Ok(()) } else { Err(Errno::NOLCK) });
        }
        assert_eq!(locks.count(), 2);
    }
}
