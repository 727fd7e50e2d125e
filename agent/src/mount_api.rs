//! Safe wrappers around the file-descriptor based mount API (fsopen(2) and related calls), and
//! resolving paths inside a root.
//!
//! Everything here works on descriptors, so a path under the control of an image or a container is walked exactly once
//! and never leaves its root. Other modules decide which file systems are mounted where.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// Attributes of a mount (`MOUNT_ATTR_*`, linux/mount.h).
pub mod attr {
    /// No writes are possible.
    pub const RDONLY: u64 = 0x1;
    /// set-user-ID bits are ignored.
    pub const NOSUID: u64 = 0x2;
    /// Device files do not work.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// Access times are updated on every access.
    pub const STRICTATIME: u64 = 0x20;
}

const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const AT_RECURSIVE: libc::c_uint = 0x8000;

/// Symbolic links followed in one path before it counts as a loop (the kernel's own limit, path_resolution(7)).
const MAX_SYMLINKS: usize = 40;

/// A file system that is being configured.
#[derive(Debug)]
pub struct NewFileSystem(OwnedFd);

impl NewFileSystem {
    /// Starts configuring a file system of this type.
    pub fn open(fs_type: &CStr) -> io::Result<Self> {
        // SAFETY: the type is a valid C string; the call returns a new descriptor or an error.
        let new = owned(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)?;
        // The source that df and /proc/mounts show; the kernel's own default is "none".
        new.set(c"source", &fs_type.to_string_lossy())?;
        Ok(new)
    }

    /// Sets an option with a value.
    pub fn set(&self, key: &CStr, value: &str) -> io::Result<()> {
        let value = CString::new(value)?;
        // SAFETY: key and value are valid C strings that outlive the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })
    }

    /// Sets an option without a value.
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: key is a valid C string; a flag takes neither value nor aux.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_SET_FLAG,
                key.as_ptr(),
                none,
                0,
            )
        })
    }

    /// Creates the file system and a mount of it that is not attached anywhere yet.
    pub fn mount(self, attributes: u64) -> io::Result<OwnedFd> {
        let none = std::ptr::null::<libc::c_char>();
        // SAFETY: the create command takes neither key nor value.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                FSCONFIG_CMD_CREATE,
                none,
                none,
                0,
            )
        })?;
        // SAFETY: no pointers; the call returns a new descriptor or an error.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }
}

/// Creates a file system without options.
pub fn new_mount(fs_type: &CStr, attributes: u64) -> io::Result<OwnedFd> {
    NewFileSystem::open(fs_type)?.mount(attributes)
}

/// Opens (`O_PATH`) a path of the guest, following symbolic links.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

/// A detached bind mount of the descriptor's file or directory.
pub fn clone_mount(source: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string, the descriptor is borrowed for the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, source.as_raw_fd(), c"".as_ptr(), flags) })
}

/// `struct mount_attr`, linux/mount.h.
#[repr(C)]
#[derive(Debug, Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Adds attributes to a mount and, if `recursive`, to all mounts below it.
pub fn add_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    let attr = MountAttr {
        attr_set: attributes,
        ..Default::default()
    };
    change_mount(mount, &attr, recursive)
}

/// Makes a mount and all mounts below it receive mounts from their peers, but not send any (`MS_SLAVE`).
pub fn make_slave(mount: BorrowedFd<'_>) -> io::Result<()> {
    let attr = MountAttr {
        propagation: libc::MS_SLAVE,
        ..Default::default()
    };
    change_mount(mount, &attr, true)
}

/// Shows the files of a detached mount as those of the users that a user namespace maps theirs to (`MOUNT_ATTR_IDMAP`,
/// mount_setattr(2)): the owner 0 on disk becomes the namespace's root.
pub fn map_users(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_IDMAP,
        userns_fd: u64::try_from(user_namespace.as_raw_fd()).map_err(io::Error::other)?,
        ..Default::default()
    };
    change_mount(mount, &attr, false)
}

fn change_mount(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: bool) -> io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= AT_RECURSIVE;
    }
    // SAFETY: attr is a structure of the size that is passed, and the path is an empty C string.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
}

/// Attaches a detached mount on top of the target.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are empty C strings, both descriptors are borrowed for the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })
}

/// What to create if a path is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: it is an error.
    Fail,
    /// Directories with this mode.
    Directory(Mode),
    /// An empty file, below directories of mode 0755.
    File,
}

/// Opens (`O_PATH`) a path as a process with the root directory `root` would, and creates what is missing.
///
/// Symbolic links, including dangling ones, and `..` are resolved inside the root. The kernel resolves only one name at
/// a time, so a concurrent change of the tree cannot lead outside.
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, missing: Missing) -> io::Result<OwnedFd> {
    let mut pending: VecDeque<OsString> = VecDeque::new();
    push_components(&mut pending, path);
    let mut stack: Vec<OwnedFd> = Vec::new();
    let mut links = 0_usize;
    while let Some(name) = pending.pop_front() {
        if name == ".." {
            stack.pop();
            continue;
        }
        let parent = stack.last().map_or(root, AsFd::as_fd);
        let found = match open_component(parent, &name) {
            Err(Errno::ENOENT) => {
                make_component(parent, &name, missing, pending.is_empty())?;
                open_component(parent, &name)?
            }
            other => other?,
        };
        match kind(&found)? {
            SFlag::S_IFLNK => {
                links += 1;
                if links > MAX_SYMLINKS {
                    return Err(Errno::ELOOP.into());
                }
                let target = readlinkat(&found, "")?;
                let target = Path::new(&target);
                if target.is_absolute() {
                    stack.clear();
                }
                let mut expanded = VecDeque::new();
                push_components(&mut expanded, target);
                expanded.append(&mut pending);
                pending = expanded;
            }
            SFlag::S_IFDIR => stack.push(found),
            _ if pending.is_empty() => return Ok(found),
            _ => return Err(Errno::ENOTDIR.into()),
        }
    }
    match stack.pop() {
        Some(found) => Ok(found),
        None => root.try_clone_to_owned(),
    }
}

/// Whether the descriptor refers to a directory.
pub fn is_directory(fd: &OwnedFd) -> io::Result<bool> {
    Ok(kind(fd)? == SFlag::S_IFDIR)
}

fn push_components(pending: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components() {
        match component {
            Component::Normal(name) => pending.push_back(name.to_owned()),
            Component::ParentDir => pending.push_back(OsString::from_vec(b"..".to_vec())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn open_component(parent: BorrowedFd<'_>, name: &OsString) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name.as_os_str(), flags, Mode::empty())
}

fn make_component(parent: BorrowedFd<'_>, name: &OsString, missing: Missing, last: bool) -> Result<(), Errno> {
    let made = match missing {
        Missing::Fail => return Err(Errno::ENOENT),
        Missing::File if last => {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            openat(parent, name.as_os_str(), flags, Mode::from_bits_truncate(0o644)).map(drop)
        }
        Missing::File => mkdirat(parent, name.as_os_str(), Mode::from_bits_truncate(0o755)),
        Missing::Directory(mode) => mkdirat(parent, name.as_os_str(), mode),
    };
    match made {
        // Another container of the Pod has created it first, in a shared volume.
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

fn kind(fd: &OwnedFd) -> io::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT)
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    check(result)?;
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor to us, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::test_directory::TestDirectory;

    struct Root(TestDirectory);

    impl Root {
        fn new(name: &str) -> Self {
            Self(TestDirectory::new(&format!("root-{name}")))
        }

        fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn open(&self, path: &str, missing: Missing) -> io::Result<PathBuf> {
            let root = OwnedFd::from(fs::File::open(self.0.path())?);
            let found = open_in_root(root.as_fd(), Path::new(path), missing)?;
            fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd()))
        }
    }

    const DIRECTORY: Missing = Missing::Directory(Mode::from_bits_truncate(0o755));

    #[test]
    fn missing_directories_are_created() {
        let root = Root::new("made");
        assert_eq!(root.open("/a/b/c", DIRECTORY).unwrap(), root.join("a/b/c"));
        let mode = fs::metadata(root.join("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o700, 0o700);
    }

    #[test]
    fn dot_dot_stays_at_the_root() {
        let root = Root::new("dotdot");
        assert_eq!(root.open("/../../x", DIRECTORY).unwrap(), root.join("x"));
        assert_eq!(root.open("/..", Missing::Fail).unwrap(), root.0.path());
    }

    #[test]
    fn absolute_links_are_resolved_inside_the_root() {
        let root = Root::new("absolute");
        symlink("/etc", root.join("link")).unwrap();
        assert_eq!(
            root.open("/link/passwd", Missing::File).unwrap(),
            root.join("etc/passwd")
        );
        assert!(root.join("etc/passwd").is_file());
    }

    #[test]
    fn the_target_of_a_dangling_link_is_created() {
        let root = Root::new("dangling");
        fs::create_dir(root.join("etc")).unwrap();
        symlink("../run/systemd/resolve/stub-resolv.conf", root.join("etc/resolv.conf")).unwrap();
        let expected = root.join("run/systemd/resolve/stub-resolv.conf");
        assert_eq!(root.open("/etc/resolv.conf", Missing::File).unwrap(), expected);
    }

    #[test]
    fn a_link_above_the_root_resolves_to_the_root() {
        let root = Root::new("climb");
        symlink("../../../../../../../etc/shadow", root.join("up")).unwrap();
        assert_eq!(root.open("/up", Missing::File).unwrap(), root.join("etc/shadow"));
    }

    #[test]
    fn a_loop_of_links_is_an_error() {
        let root = Root::new("loop");
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        let error = root.open("/a", DIRECTORY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_path_through_a_file_is_an_error() {
        let root = Root::new("file");
        fs::write(root.join("file"), "").unwrap();
        let error = root.open("/file/x", DIRECTORY).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOTDIR));
    }

    #[test]
    fn a_missing_path_is_an_error_where_it_must_exist() {
        let root = Root::new("missing");
        let error = root.open("/nothing", Missing::Fail).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }
}
