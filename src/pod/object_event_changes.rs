//! Follows the node's events about objects other than Pods: inotify reports that their file was replaced.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::Context as _;
use microkube_base::private_directory;
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::state::Paths;

/// Changes of the events.
#[derive(Debug)]
pub struct ObjectEventChanges {
    inotify: Inotify,
}

impl ObjectEventChanges {
    /// Starts watching. Events that are read after this call can be followed without a gap.
    ///
    /// # Errors
    /// If their directory cannot be watched.
    pub fn of(paths: &Paths) -> anyhow::Result<Self> {
        let directory = paths.events();
        let failed = || format!("cannot watch {}", directory.display());
        private_directory::create(&directory).with_context(failed)?;
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("cannot watch files; fs.inotify.max_user_instances may be reached (raise it with sysctl)")?;
        inotify
            .add_watch(&directory, AddWatchFlags::IN_MOVED_TO)
            .with_context(failed)?;
        Ok(Self { inotify })
    }

    /// Becomes readable when the events have changed.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes note of the changes so far. Call this before the events are read.
    ///
    /// # Errors
    /// If the kernel returns an error.
    pub fn take(&self) -> anyhow::Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return Err(errno).context("cannot read changes of events"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::state::{InvolvedObject, ObjectEventLog, Occurrence};

    fn is_readable(changes: &ObjectEventChanges) -> bool {
        let mut descriptors = [PollFd::new(changes.descriptor(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::ZERO).unwrap() > 0
    }

    #[test]
    fn new_events_are_reported_once() {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
        let changes = ObjectEventChanges::of(&paths).unwrap();
        assert!(!is_readable(&changes));
        let mut log = ObjectEventLog::open(&paths).unwrap();
        let object = InvolvedObject {
            kind: "PersistentVolume".to_owned(),
            namespace: None,
            name: "a".to_owned(),
            uid: "u".to_owned(),
        };
        let occurrence = Occurrence {
            warning: true,
            reason: "VolumeFailedDelete",
            message: "x",
            component: "c",
            lasts: false,
        };
        log.add(&object, occurrence, SystemTime::now());
        log.save().unwrap();
        assert!(is_readable(&changes));
        changes.take().unwrap();
        assert!(!is_readable(&changes));
    }
}
