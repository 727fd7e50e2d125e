//! Locks of an open file description (fcntl(2), `F_OFD_SETLK`).

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::protocol::locks::{LockRange, LockType};

fn structure(lock_type: LockType, range: LockRange) -> libc::flock {
    let number = match lock_type {
        LockType::Shared => libc::F_RDLCK,
        LockType::Exclusive => libc::F_WRLCK,
        LockType::Unlock => libc::F_UNLCK,
    };
    let (start, length) = range.start_and_length();
    // SAFETY: all fields are integers; the process must be 0 (fcntl(2)).
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = number as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = length;
    lock
}

fn call(descriptor: impl AsFd, command: libc::c_int, lock: &mut libc::flock) -> Result<(), Errno> {
    loop {
        let descriptor = descriptor.as_fd().as_raw_fd();
        // SAFETY: an open descriptor, and a structure that the kernel reads and, for F_OFD_GETLK, writes.
        if unsafe { libc::fcntl(descriptor, command, &raw mut *lock) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match Errno::from_io_error(&error).unwrap_or(Errno::IO) {
            Errno::INTR => {}
            // Both mean that another owner has a conflicting lock (fcntl(2)).
            Errno::ACCESS => return Err(Errno::AGAIN),
            error => return Err(error),
        }
    }
}

/// Sets or ends a lock. Without `wait`, `EAGAIN` means that another owner has a conflicting one.
pub fn set(descriptor: impl AsFd, lock_type: LockType, range: LockRange, wait: bool) -> Result<(), Errno> {
    let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
    call(descriptor, command, &mut structure(lock_type, range))
}

/// A lock of another owner that conflicts with this one.
pub fn conflicting(
    descriptor: impl AsFd,
    lock_type: LockType,
    range: LockRange,
) -> Result<Option<(LockType, LockRange)>, Errno> {
    let mut lock = structure(lock_type, range);
    call(descriptor, libc::F_OFD_GETLK, &mut lock)?;
    let lock_type = match i32::from(lock.l_type) {
        libc::F_RDLCK => LockType::Shared,
        libc::F_WRLCK => LockType::Exclusive,
        _ => return Ok(None),
    };
    Ok(Some((
        lock_type,
        LockRange::of_start_and_length(lock.l_start, lock.l_len),
    )))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptions_of_one_file_exclude_each_other() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let open = || File::options().read(true).write(true).open(file.path()).unwrap();
        let (first, second) = (open(), open());
        let range = LockRange::of_start_and_length(10, 5);
        let exclusive = LockType::Exclusive;
        set(&first, exclusive, range, false).unwrap();
        set(&first, exclusive, range, false).unwrap();
        assert_eq!(set(&second, LockType::Shared, range, false), Err(Errno::AGAIN));
        assert_eq!(
            conflicting(&second, LockType::Shared, LockRange::WHOLE_FILE),
            Ok(Some((exclusive, range)))
        );
        let beside = LockRange::of_start_and_length(15, 0);
        assert_eq!(conflicting(&second, exclusive, beside), Ok(None));
        set(&first, LockType::Unlock, LockRange::WHOLE_FILE, false).unwrap();
        set(&second, LockType::Shared, range, true).unwrap();
    }
}
