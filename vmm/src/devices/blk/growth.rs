//! Growing a disk while the VM runs: the thread of the control socket hands over files, and the disk's thread appends
//! them.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use vmm_sys_util::eventfd::EventFd;

/// The size of a disk as the driver reads it.
#[derive(Debug)]
pub struct DiskSize {
    bytes: AtomicU64,
    /// How many times it has changed.
    changes: AtomicU32,
}

impl DiskSize {
    pub fn new(bytes: u64) -> Self {
        Self {
            bytes: AtomicU64::new(bytes),
            changes: AtomicU32::new(0),
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    pub fn changes(&self) -> u32 {
        self.changes.load(Ordering::SeqCst)
    }

    pub fn set(&self, bytes: u64) {
        self.bytes.store(bytes, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
    }
}

/// Hands files to a disk's thread.
#[derive(Debug)]
pub struct Growth {
    segments: Sender<(File, u64)>,
    wake: Arc<EventFd>,
}

/// The disk's end.
#[derive(Debug)]
pub struct NewSegments {
    received: Receiver<(File, u64)>,
    wake: Arc<EventFd>,
}

/// Connects the control socket with a disk.
///
/// # Errors
/// If the kernel refuses an eventfd.
pub fn pair() -> io::Result<(Growth, NewSegments)> {
    let (segments, received) = channel();
    let wake = Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?);
    let growth = Growth {
        segments,
        wake: Arc::clone(&wake),
    };
    Ok((growth, NewSegments { received, wake }))
}

impl Growth {
    /// Appends the first `length_bytes` of a file to the disk.
    pub fn append(&self, file: File, length_bytes: u64) {
        // The disk's thread lives as long as the VM.
        if self.segments.send((file, length_bytes)).is_ok() {
            let _ = self.wake.write(1);
        }
    }
}

impl NewSegments {
    /// Becomes readable when there are new segments.
    pub fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// The next new segment. After `None`, the descriptor becomes readable for the next one.
    pub fn next(&self) -> Option<(File, u64)> {
        let next = self.received.try_recv().ok();
        if next.is_none() {
            // A segment that arrives from here on makes it readable again.
            let _ = self.wake.read();
            return self.received.try_recv().ok();
        }
        next
    }
}
