//! Mounts by descriptor (open_tree(2) and related calls), which are attached nowhere.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

const AT_RECURSIVE: libc::c_uint = 0x8000;
const EMPTY_PATH: libc::c_uint = libc::AT_EMPTY_PATH as libc::c_uint;

// `MOUNT_ATTR_*`, linux/mount.h.
const RDONLY: u64 = 0x1;
const NOSUID: u64 = 0x2;
const NODEV: u64 = 0x4;

/// A clone of the mount below an opened file or directory, with all mounts below it.
pub fn clone_mount(of: impl AsFd) -> io::Result<OwnedFd> {
    const OPEN_TREE_CLONE: libc::c_uint = 1;
    let flags = OPEN_TREE_CLONE | AT_RECURSIVE | libc::O_CLOEXEC as libc::c_uint | EMPTY_PATH;
    // SAFETY: the path is an empty C string, and the descriptor is borrowed for the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, of.as_fd().as_raw_fd(), c"".as_ptr(), flags) })
}

/// Makes set-user-ID bits and device files do nothing in a mount and those below it, and refuses writes if `read_only`.
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
