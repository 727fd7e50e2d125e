//! Reports that files in a directory have changed.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::unix::AsyncFd;

/// Watches directories for files that are written, created, replaced or removed.
#[derive(Debug)]
pub struct DirectoryWatch {
    inotify: AsyncFd<Descriptor>,
}

/// tokio does not accept the form in which nix exposes the descriptor.
#[derive(Debug)]
struct Descriptor(Inotify);

impl AsRawFd for Descriptor {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl DirectoryWatch {
    /// Watches these directories. No change from now on is missed; the caller examines the existing content afterwards.
    ///
    /// # Errors
    /// If a directory does not exist, or the kernel's limit of watches is reached.
    pub fn new(dirs: &[&Path]) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let changes = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for dir in dirs {
            inotify.add_watch(*dir, changes)?;
        }
        // SAFETY: the descriptor belongs to the inotify instance, which neither replaces nor closes it while it lives.
        let inotify = unsafe { AsyncFd::register(Descriptor(inotify)) }?;
        Ok(Self { inotify })
    }

    /// Waits until something has changed since the last call.
    ///
    /// # Errors
    /// If the kernel returns an error; not expected.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        loop {
            match ready.get_inner().0.read_events() {
                // The events themselves do not matter, and a queue overflow counts as a change.
                Ok(_) => {}
                Err(Errno::EAGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
