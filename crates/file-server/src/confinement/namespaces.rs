//! Leaves the host's file system, network, IPC, host name and cgroups.

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount, mount_change, mount_move, open_tree, unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::error::{ConfinementError, Step};

/// A directory that every host has. The empty file system is mounted there, in this process's own mount namespace only.
const MOUNT_POINT: &str = "/proc";

/// Moves the process into its own namespaces. Its root directory is empty and read-only, and its working directory is
/// its own `/proc/self/fd`, as a separate mount: nothing else of procfs can be reached from there.
pub(super) fn leave_host() -> Result<(), ConfinementError> {
    let namespaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the table of descriptors is not unshared.
    unsafe { unshare_unsafe(namespaces) }.step("create namespaces (CAP_SYS_ADMIN is needed)")?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).step("make mounts private")?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let descriptors = open_tree(CWD, "/proc/self/fd", clone).step("clone /proc/self/fd (procfs is needed)")?;
    enter_empty_root()?;
    fchdir(&descriptors).step("enter /proc/self/fd")?;
    // A test that cannot be forgotten: without this, no file could be opened.
    let own = rustix::fs::open("0", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    own.map(drop).step("open a descriptor by its path")
}

fn enter_empty_root() -> Result<(), ConfinementError> {
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("empty", MOUNT_POINT, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=0").step("mount an empty file system")?;
    chdir(MOUNT_POINT).step("enter the empty file system")?;
    // The new root is stacked on top of the old one, which is then detached from below (pivot_root(2), NOTES).
    match pivot_root(".", ".") {
        Ok(()) => unmount(".", UnmountFlags::DETACH).step("unmount the host's file system")?,
        // A host whose root is its initramfs cannot pivot: cover the root instead, as switch_root does.
        Err(Errno::INVAL) => {
            mount_move(".", "/").step("cover the host's file system")?;
            chroot(".").step("change to the empty file system")?;
        }
        Err(error) => Err(error).step("change to the empty file system")?,
    }
    chdir("/").step("enter the empty root")
}
