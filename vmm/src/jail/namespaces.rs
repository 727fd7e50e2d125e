//! Leaves the host's file system, network, IPC and host name.

use std::ffi::CStr;
use std::ptr;

use super::error::{JailError, check};

/// A directory that every host has. The empty file system is mounted there, in this process's own mount namespace only.
const MOUNT_POINT: &CStr = c"/proc";

/// Moves the process into its own namespaces, whose file system is one empty, read-only directory.
pub(super) fn leave_file_system_and_network() -> Result<(), JailError> {
    let namespaces = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: all strings below are zero-terminated constants, all other pointers null.
    unsafe {
        check(libc::unshare(namespaces), "create namespaces (CAP_SYS_ADMIN is needed)")?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        let made = libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), private, ptr::null());
        check(made, "make mounts private")?;
        let flags = libc::MS_RDONLY | libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        let options = c"size=4k,nr_inodes=1,mode=0".as_ptr().cast();
        let mounted = libc::mount(
            c"jail".as_ptr(),
            MOUNT_POINT.as_ptr(),
            c"tmpfs".as_ptr(),
            flags,
            options,
        );
        check(mounted, "mount an empty file system")?;
        check(libc::chdir(MOUNT_POINT.as_ptr()), "enter the empty file system")?;
        // The new root is stacked on top of the old one, which is then detached from below (pivot_root(2), NOTES).
        let dot = c".".as_ptr();
        if libc::syscall(libc::SYS_pivot_root, dot, dot) == 0 {
            check(libc::umount2(dot, libc::MNT_DETACH), "unmount the host's file system")?;
        } else {
            // A host whose root is its initramfs cannot pivot: cover the root instead, as switch_root does.
            let moved = libc::mount(dot, c"/".as_ptr(), ptr::null(), libc::MS_MOVE, ptr::null());
            check(moved, "cover the host's file system")?;
            check(libc::chroot(dot), "change to the empty file system")?;
        }
        check(libc::chdir(c"/".as_ptr()), "enter the empty root")
    }
}
