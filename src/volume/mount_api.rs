//! Mounts by descriptor (fsopen(2), open_tree(2) and related calls), which are attached nowhere.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

const AT_RECURSIVE: libc::c_uint = 0x8000;
const EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;

// `MOUNT_ATTR_*`, linux/mount.h.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;
const NOATIME: u64 = 0x10;

/// A file system that is being configured.
#[derive(Debug)]
pub struct NewFileSystem(OwnedFd);

impl NewFileSystem {
    /// Set-user-ID bits and device files do nothing.
    pub const NO_SUID_DEV: u64 = NOSUID | NODEV;
    /// Access times are not updated.
    pub const NO_ACCESS_TIMES: u64 = NOATIME;

    /// Starts configuring a file system of this type.
    pub fn open(fs_type: &CStr) -> io::Result<Self> {
        const FSOPEN_CLOEXEC: libc::c_uint = 1;
        // SAFETY: the type is a valid C string; the call returns a new descriptor or an error.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets an option.
    pub fn set(&self, key: &CStr, value: &str) -> io::Result<()> {
        const FSCONFIG_SET_STRING: libc::c_uint = 1;
        let value = CString::new(value)?;
        // SAFETY: key and value are valid C strings that outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        };
        Errno::result(result)?;
        Ok(())
    }

    /// Creates the file system and a mount of it.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
        const FSMOUNT_CLOEXEC: libc::c_uint = 1;
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: the create command takes neither key nor value.
        let created = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                none,
                none,
                0,
            )
        };
        Errno::result(created)?;
        // SAFETY: no pointers; the call returns a new descriptor or an error.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }
}

/// A clone of the mount below an opened file or directory, with all mounts below it.
pub fn clone_mount(of: impl AsFd) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC as libc::c_uint | EMPTY_PATH;
    // SAFETY: the path is an empty C string, and the descriptor is borrowed for the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, of.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Makes set-user-ID bits and device files do nothing in a mount and those below it, and refuses writes if `read_only`. The
/// mounts become private: otherwise the host could not unmount what is in use through them.
pub fn restrict(mount: impl AsFd, read_only: bool) -> io::Result<()> {
    /// `struct mount_attr`, linux/mount.h.
    #[repr(C)]
    #[derive(Default)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let attr = MountAttr {
        attr_set: NOSUID | NODEV | if read_only { RDONLY } else { 0 },
        propagation: libc::MS_PRIVATE,
        ..Default::default()
    };
    // SAFETY: attr is a structure of the size that is passed, and the path is an empty C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            EMPTY_PATH | AT_RECURSIVE,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    Errno::result(result)?;
    Ok(())
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(Errno::result(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just returned this descriptor, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
