//! Files and directories that the guest has open.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustix::io::Errno;

use crate::inode::Inode;
use crate::share::Share;

/// An open regular file.
#[derive(Debug)]
pub struct OpenFile {
    pub inode: Arc<Inode>,
    pub descriptor: OwnedFd,
    pub is_writable: bool,
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
    next: u64,
}

/// The table of handles. Their number is bounded, because each is a descriptor.
#[derive(Debug)]
pub struct Handles {
    table: RwLock<Table>,
    limit: usize,
}

impl Handles {
    pub fn new(limit: usize) -> Self {
        Self {
            table: RwLock::default(),
            limit,
        }
    }

    /// Adds a handle and returns its number. Numbers are not used again.
    pub fn add(&self, handle: Handle) -> Result<u64, Errno> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if table.handles.len() >= self.limit {
            return Err(Errno::NFILE);
        }
        table.next = table.next.checked_add(1).ok_or(Errno::NFILE)?;
        let number = table.next;
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
        table.handles.remove(&number).ok_or(Errno::BADF)
    }

    /// Removes all handles.
    pub fn clear(&self) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let closed = std::mem::take(&mut table.handles);
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
        let handles = Handles::new(10);
        let number = handles.add(root()).unwrap();
        assert!(handles.get(number).is_ok());
        assert!(handles.remove(number).is_ok());
        assert_eq!(handles.get(number).unwrap_err(), Errno::BADF);
        assert_eq!(handles.remove(number).unwrap_err(), Errno::BADF);
        assert_ne!(handles.add(root()).unwrap(), number);
    }

    #[test]
    fn the_number_of_handles_is_bounded() {
        let handles = Handles::new(2);
        let first = handles.add(root()).unwrap();
        handles.add(root()).unwrap();
        assert_eq!(handles.add(root()).unwrap_err(), Errno::NFILE);
        handles.remove(first).unwrap();
        assert!(handles.add(root()).is_ok());
    }
}
