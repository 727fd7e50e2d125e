//! The directories and files of the host that one Pod's virtual machine can use.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{FileType, StatVfsMountFlags};
use rustix::io::Errno;

use crate::file_status::{self, MountedDevice};
use crate::protocol::name::Name;

/// Maximum number of shares of a Pod.
pub const MAX_SHARES: usize = 1024;

/// A directory or regular file of the host, with everything below it.
#[derive(Debug)]
pub struct Share {
    name: CString,
    root: OwnedFd,
    device: MountedDevice,
    is_read_only: bool,
}

impl Share {
    pub fn name(&self) -> Name<'_> {
        Name::new(&self.name).expect("checked by `Share::new`")
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// How long the guest may use names and attributes without asking again. Files of a writable share may be changed
    /// by other Pods at any time, and they must not see each other's old state.
    pub fn valid_for(&self) -> Duration {
        if self.is_read_only {
            Duration::from_secs(1)
        } else {
            Duration::ZERO
        }
    }

    /// Refuses changes of a read-only share. The supervisor mounts such shares read-only as well.
    pub fn check_writable(&self) -> Result<(), Errno> {
        if self.is_read_only { Err(Errno::ROFS) } else { Ok(()) }
    }
}

/// Why a share cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    #[error("the share's name {0:?} is not the name of a directory entry")]
    Name(String),
    #[error("there is a share {0:?} already")]
    Exists(String),
    #[error("there are {MAX_SHARES} shares already")]
    TooMany,
    #[error("cannot examine the descriptor of share {0:?}")]
    Status(String, #[source] Errno),
    #[error("share {0:?} is neither a directory nor a regular file")]
    FileType(String),
    #[error("the mount of share {0:?} allows device nodes or set-user-ID programs")]
    MountFlags(String),
}

/// The shares in the order in which they were added.
#[derive(Debug, Default)]
pub struct Shares {
    list: RwLock<Vec<Arc<Share>>>,
    /// Whether a share must be on a mount without devices and set-user-ID programs.
    require_safe_mounts: bool,
}

impl Shares {
    pub fn new(require_safe_mounts: bool) -> Self {
        Self {
            list: RwLock::default(),
            require_safe_mounts,
        }
    }

    /// Adds the directory or regular file that an `O_PATH` descriptor refers to.
    pub fn add(&self, name: &str, root: OwnedFd, read_only: bool) -> Result<(), ShareError> {
        let invalid = || ShareError::Name(name.to_owned());
        let c_name = CString::new(name).map_err(|_| invalid())?;
        Name::new(&c_name).map_err(|_| invalid())?;
        let status = file_status::of(&root).map_err(|source| ShareError::Status(name.to_owned(), source))?;
        if !matches!(
            file_status::file_type(&status),
            FileType::Directory | FileType::RegularFile
        ) {
            return Err(ShareError::FileType(name.to_owned()));
        }
        let mount = rustix::fs::fstatvfs(&root).map_err(|source| ShareError::Status(name.to_owned(), source))?;
        let safe = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV;
        if self.require_safe_mounts && !mount.f_flag.contains(safe) {
            return Err(ShareError::MountFlags(name.to_owned()));
        }
        let share = Share {
            name: c_name,
            root,
            device: MountedDevice::of(&status),
            is_read_only: read_only || mount.f_flag.contains(StatVfsMountFlags::RDONLY),
        };
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        if list.iter().any(|other| other.name == share.name) {
            return Err(ShareError::Exists(name.to_owned()));
        }
        if list.len() >= MAX_SHARES {
            return Err(ShareError::TooMany);
        }
        list.push(Arc::new(share));
        Ok(())
    }

    pub fn find(&self, name: Name<'_>) -> Option<Arc<Share>> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().find(|share| share.name() == name).cloned()
    }

    /// The position of the share whose root is on this device of this mount.
    pub fn position(&self, device: MountedDevice) -> Option<usize> {
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().position(|share| share.device == device)
    }

    /// All shares. Later calls return the same ones first.
    pub fn all(&self) -> Vec<Arc<Share>> {
        self.list.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn directory() -> OwnedFd {
        File::open("/").unwrap().into()
    }

    #[test]
    fn a_share_has_a_name_of_its_own_that_is_one_component() {
        let shares = Shares::default();
        shares.add("data", directory(), false).unwrap();
        for name in ["", ".", "..", "a/b", "a\0b"] {
            assert!(
                matches!(shares.add(name, directory(), false), Err(ShareError::Name(_))),
                "{name:?}"
            );
        }
        let again = shares.add("data", directory(), true);
        assert!(matches!(again, Err(ShareError::Exists(_))));
        assert_eq!(shares.all().len(), 1);
    }

    #[test]
    fn a_share_is_a_directory_or_a_regular_file() {
        let shares = Shares::default();
        let device = File::open("/dev/null").unwrap().into();
        assert!(matches!(
            shares.add("null", device, false),
            Err(ShareError::FileType(_))
        ));
        let (pipe, _writer) = std::io::pipe().unwrap();
        assert!(matches!(
            shares.add("pipe", pipe.into(), false),
            Err(ShareError::FileType(_))
        ));
        let file = tempfile::tempfile().unwrap();
        shares.add("file", file.into(), false).unwrap();
    }
}
