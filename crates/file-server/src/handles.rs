//! Files and directories that the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::io::Errno;

use crate::inode::Inode;
use crate::share::Share;

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    pub inode: Arc<Inode>,
    /// Shared with a reply that passes it.
    pub descriptor: Arc<OwnedFd>,
    pub is_writable: bool,
    /// Whether the VMM got the descriptor.
    pub is_passed: AtomicBool,
}

/// An open directory of a share.
#[derive(Debug)]
pub struct OpenDirectory {
    pub inode: Arc<Inode>,
    /// Reading moves the descriptor's position first.
    pub descriptor: Mutex<OwnedFd>,
}

/// What a handle refers to.
#[derive(Debug, Clone)]
pub enum Handle {
    File(Arc<OpenFile>),
    Directory(Arc<OpenDirectory>),
    /// The root directory, with the shares when it was opened.
    Root(Arc<[Arc<Share>]>),
}

#[derive(Debug, Default)]
struct Table {
    handles: HashMap<u64, Handle>,
    /// How many of them are directories.
    directories: usize,
    next: u64,
}

/// The table of handles. Their number is bounded, because each is a descriptor. That of directories has a lower bound:
/// some file systems of the host keep the entries that come next in memory for each (ext4 more than 10 KiB).
#[derive(Debug)]
pub struct Handles {
    table: RwLock<Table>,
    limit: usize,
    directory_limit: usize,
}

impl Handle {
    fn is_directory(&self) -> bool {
        !matches!(self, Self::File(_))
    }
}

impl Handles {
    pub fn new(limit: usize, directory_limit: usize) -> Self {
        Self {
            table: RwLock::default(),
            limit,
            directory_limit,
        }
    }

    /// Adds a handle and returns its number. Numbers are not used again.
    pub fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.handles.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        if handle.is_directory() && table.directories >= self.directory_limit {
            return Err(Errno::NFILE);
        }
        table.next = table.next.checked_add(1).ok_or(Errno::NFILE)?;
        let number = table.next;
        table.directories += usize::from(handle.is_directory());
        table.handles.insert(number, handle);
        Ok(number)
    }

    pub fn get(&self, number: u64) -> Result<Handle, Errno> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.handles.get(&number).cloned().ok_or(Errno::BADF)
    }

    /// An open file of the inode with this number.
    pub fn file(&self, number: u64, inode: u64) -> Result<Arc<OpenFile>, Errno> {
        match self.get(number)? {
            Handle::File(file) if file.inode.number == inode => Ok(file),
            _ => Err(Errno::BADF),
        }
    }

    /// Removes a handle; returns what it referred to.
    pub fn remove(&self, number: u64) -> Result<Handle, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let removed = table.handles.remove(&number).ok_or(Errno::BADF)?;
        if removed.is_directory() {
            table.directories = table.directories.saturating_sub(1);
        }
        Ok(removed)
    }

    /// Removes all handles.
    pub fn clear(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let closed = std::mem::take(&mut table.handles);
        table.directories = 0;
        drop(table);
        drop(closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> Handle {
        Handle::Root(Arc::new([]))
    }

    #[test]
    fn a_number_is_valid_until_it_is_removed_and_not_used_again() {
        let handles = Handles::new(10, 10);
        let number = handles.add(root()).unwrap();
        assert!(handles.get(number).is_ok());
        assert!(handles.remove(number).is_ok());
        assert_eq!(handles.get(number).unwrap_err(), Errno::BADF);
        assert_eq!(handles.remove(number).unwrap_err(), Errno::BADF);
        assert_ne!(handles.add(root()).unwrap(), number);
    }

    #[test]
    fn the_number_of_handles_is_bounded() {
        let handles = Handles::new(2, 2);
        let first = handles.add(root()).unwrap();
        handles.add(root()).unwrap();
        assert_eq!(handles.add(root()).unwrap_err(), Errno::NFILE);
        handles.remove(first).unwrap();
        assert!(handles.add(root()).is_ok());
    }

    #[test]
    fn the_number_of_directories_is_bounded() {
        let handles = Handles::new(10, 2);
        let first = handles.add(root()).unwrap();
        handles.add(root()).unwrap();
        assert_eq!(handles.add(root()).unwrap_err(), Errno::NFILE);
        handles.remove(first).unwrap();
        assert!(handles.add(root()).is_ok());
        assert_eq!(handles.add(root()).unwrap_err(), Errno::NFILE);
        handles.clear();
        assert!(handles.add(root()).is_ok());
    }
}
