//! An inode that the guest knows, as an `O_PATH` descriptor of the host's file.
//!
//! The descriptor stays with its file however the file is renamed. The file is not open: a FIFO does not block, a device
//! is not touched.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Statx, openat, openat2};
use rustix::io::Errno;

use crate::descriptor_paths::DescriptorPaths;
use crate::file_status::{self, ContentVersion, MountedDevice};
use crate::protocol::name::Name;
use crate::share::Share;

/// Identifies a file of the host while a descriptor refers to it. Files with several names are one inode, but those of
/// two shares are different: one share may be read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileKey {
    pub device: MountedDevice,
    pub inode: u64,
}

impl FileKey {
    pub fn of(status: &Statx) -> Self {
        Self {
            device: MountedDevice::of(status),
            inode: status.stx_ino,
        }
    }

    /// Another inode on the same device.
    pub fn with_inode(self, inode: u64) -> Self {
        Self { inode, ..self }
    }
}

/// A file of the host that was found but has no number yet.
#[derive(Debug)]
pub struct FoundFile {
    pub descriptor: OwnedFd,
    pub key: FileKey,
    pub file_type: FileType,
    pub share: Arc<Share>,
    pub status: Statx,
}

impl FoundFile {
    /// A file by its `O_PATH` descriptor.
    pub fn of(descriptor: OwnedFd, share: Arc<Share>) -> Result<Self, Errno> {
        let status = file_status::of(&descriptor)?;
        Ok(Self {
            descriptor,
            key: FileKey::of(&status),
            file_type: file_status::file_type(&status),
            share,
            status,
        })
    }
}

/// An inode that the guest knows.
#[derive(Debug)]
pub struct Inode {
    /// The number by which the guest names it.
    pub number: u64,
    pub key: FileKey,
    pub file_type: FileType,
    pub share: Arc<Share>,
    descriptor: OwnedFd,
    /// The content when the guest last opened the file, if a later change is sure to be noticed.
    opened: Mutex<Option<ContentVersion>>,
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Inode {
    pub fn new(number: u64, found: FoundFile) -> Self {
        Self {
            number,
            key: found.key,
            file_type: found.file_type,
            share: found.share,
            descriptor: found.descriptor,
            opened: Mutex::default(),
        }
    }

    pub fn is_directory(&self) -> bool {
        self.file_type == FileType::Directory
    }

    pub fn check_directory(&self) -> Result<(), Errno> {
        if self.is_directory() {
            Ok(())
        } else {
            Err(Errno::NOTDIR)
        }
    }

    /// Finds an entry of the directory. A symbolic link is found itself.
    pub fn find(&self, name: Name<'_>) -> Result<FoundFile, Errno> {
        self.check_directory()?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // The name is one component, so it leads nowhere else; the flags are a second line of defence.
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let descriptor = openat2(self, name.as_c_str(), flags, Mode::empty(), resolve)?;
        FoundFile::of(descriptor, self.share.clone())
    }

    /// Opens the regular file or directory. Nothing else is opened: opening a device would act on the host, and the
    /// guest's kernel serves FIFOs and sockets itself.
    pub fn open(&self, paths: DescriptorPaths, flags: OFlags) -> Result<OwnedFd, Errno> {
        if !matches!(self.file_type, FileType::RegularFile | FileType::Directory) {
            return Err(Errno::NXIO);
        }
        openat(
            CWD,
            paths.of(self),
            flags | OFlags::CLOEXEC | OFlags::NOCTTY,
            Mode::empty(),
        )
    }

    /// Records the content that the guest finds when it opens the file. Returns whether it is what it was the last time,
    /// so that what the guest has cached since then is still valid.
    pub fn is_unchanged(&self, status: &Statx, now: SystemTime) -> bool {
        let version = ContentVersion::of(status);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let last = std::mem::replace(&mut *opened, version.is_settled(now).then_some(version));
        last == Some(version)
    }
}
