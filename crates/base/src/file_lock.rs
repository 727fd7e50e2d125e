//! Locks between processes: `flock` on a file that exists for this purpose.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

/// Which other processes may hold the lock at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// None.
    Exclusive,
    /// Those that also share it.
    Shared,
}

impl Sharing {
    fn operation(self) -> i32 {
        match self {
            Self::Exclusive => libc::LOCK_EX,
            Self::Shared => libc::LOCK_SH,
        }
    }
}

/// A file on which this process holds a `flock`, released when dropped; the kernel releases it if the process dies.
///
/// The lock belongs to the open file, not to the process: a child that inherits the descriptor holds it, too.
#[derive(Debug)]
pub struct LockedFile {
    file: OwnedFd,
    held_by_child: bool,
}

impl LockedFile {
    /// Adopts a descriptor inherited from the process that took the lock.
    #[must_use]
    pub fn from_inherited(fd: OwnedFd) -> Self {
        Self::of(fd)
    }

    fn of(file: OwnedFd) -> Self {
        Self {
            file,
            held_by_child: false,
        }
    }

    /// Leaves the lock to a child that has inherited the descriptor: dropping this only closes this process's copy.
    pub fn leave_to_child(&mut self) {
        self.held_by_child = true;
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing would not be enough: a child that another thread has just forked has a copy until it executes its
        // program, and the file would stay locked as long.
        if !self.held_by_child {
            // It can only fail for reasons that closing the descriptor settles.
            let _ = flock(&self.file, libc::LOCK_UN);
        }
    }
}

impl AsFd for LockedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Waits for a lock on a file, creating the file if it is missing.
///
/// # Errors
/// If the file cannot be created or locked.
pub fn lock(path: &Path, sharing: Sharing) -> io::Result<LockedFile> {
    lock_open(open(path)?.into(), sharing)
}

/// Waits for a lock on an open file or directory.
///
/// # Errors
/// If the file system has no locks.
pub fn lock_open(file: OwnedFd, sharing: Sharing) -> io::Result<LockedFile> {
    flock(&file, sharing.operation())?;
    Ok(LockedFile::of(file))
}

/// Tries to take a lock on a file; `None` if another process holds it.
///
/// # Errors
/// If the file cannot be created or locked.
pub fn try_lock(path: &Path, sharing: Sharing) -> io::Result<Option<LockedFile>> {
    try_lock_open(open(path)?.into(), sharing)
}

/// Tries to take a lock on an open file or directory; `None` if another process holds it.
///
/// # Errors
/// If the file system has no locks.
pub fn try_lock_open(file: OwnedFd, sharing: Sharing) -> io::Result<Option<LockedFile>> {
    match flock(&file, sharing.operation() | libc::LOCK_NB) {
        Ok(()) => Ok(Some(LockedFile::of(file))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for a lock on an open file or directory, but not longer than `limit`; `None` if another process still holds it.
///
/// # Errors
/// If the file system has no locks, or no thread can be started.
pub fn lock_open_within(file: OwnedFd, sharing: Sharing, limit: Duration) -> io::Result<Option<LockedFile>> {
    if let Some(locked) = try_lock_open(file.try_clone()?, sharing)? {
        return Ok(Some(locked));
    }
    // flock(2) has no time limit, and repeated attempts could fail for as long as other processes take turns. If the time
    // is over, the thread releases the lock as soon as it gets it.
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new().name("file-lock".into()).spawn(move || {
        let _ = sender.send(lock_open(file, sharing));
    })?;
    receiver.recv_timeout(limit).ok().transpose()
}

// nix's wrapper unlocks when it is dropped, which would also take the lock from a child that inherited it.
fn flock(file: &OwnedFd, operation: i32) -> io::Result<()> {
    loop {
        // SAFETY: flock(2) takes two integers; the descriptor is open while `file` lives.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Opens a file for a lock, creating it if it is missing.
///
/// # Errors
/// If the file cannot be created or opened.
pub fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_is_held_once_and_freed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock(&path, Sharing::Exclusive).unwrap();
        assert!(held.is_some());
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_none());
        assert!(try_lock(&path, Sharing::Shared).unwrap().is_none());
        drop(held);
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_some());
    }

    #[test]
    fn a_dropped_lock_is_free_although_a_forked_process_still_has_a_copy_of_the_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, Sharing::Exclusive).unwrap();
        let copy = held.as_fd().try_clone_to_owned().unwrap();
        drop(held);
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_some());
        drop(copy);
    }

    #[test]
    fn a_lock_left_to_a_child_stays_locked_until_the_child_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let mut held = lock(&path, Sharing::Exclusive).unwrap();
        let inherited = held.as_fd().try_clone_to_owned().unwrap();
        held.leave_to_child();
        drop(held);
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_none());
        drop(LockedFile::from_inherited(inherited));
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_some());
    }

    #[test]
    fn a_shared_lock_excludes_only_exclusive_ones() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let _held = lock(&path, Sharing::Shared).unwrap();
        assert!(try_lock(&path, Sharing::Shared).unwrap().is_some());
        assert!(try_lock(&path, Sharing::Exclusive).unwrap().is_none());
    }

    #[test]
    fn a_directory_can_be_locked() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap().into();
        let held = lock_open(open(), Sharing::Exclusive).unwrap();
        assert!(try_lock_open(open(), Sharing::Shared).unwrap().is_none());
        drop(held);
        lock_open(open(), Sharing::Exclusive).unwrap();
    }

    #[test]
    fn a_lock_that_is_never_released_is_waited_for_only_until_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let open = || File::open(dir.path()).unwrap().into();
        let held = lock_open(open(), Sharing::Shared).unwrap();
        let within = |limit| lock_open_within(open(), Sharing::Exclusive, limit).unwrap();
        assert!(within(Duration::ZERO).is_none());
        drop(held);
        assert!(within(Duration::MAX).is_some());
    }

    #[test]
    fn a_waiting_process_gets_the_lock_when_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path, Sharing::Exclusive).unwrap();
        let file = open(&path).unwrap().into();
        let waiting = std::thread::spawn(move || lock_open_within(file, Sharing::Shared, Duration::MAX));
        drop(held);
        assert!(waiting.join().unwrap().unwrap().is_some());
    }
}
