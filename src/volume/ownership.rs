//! Gives the files of a volume to the group of a Pod, `fsGroup` (`SetVolumeOwnership` in
//! `pkg/volume/volume_linux.go`). Pods may have written the files and may be changing them, so no symbolic link is
//! followed, and no path leaves the volume.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, fchownat};

/// Read and write for the group, as for the owner.
const FILE_MODE: u32 = 0o660;
/// Files in a directory get its group.
const DIRECTORY_MODE: u32 = 0o2770;
const PERMISSIONS: u32 = 0o7777;

/// When files are changed (`fsGroupChangePolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangePolicy {
    Always,
    /// Only if the volume's root has another group or too few permissions.
    OnRootMismatch,
}

/// Gives all files below a directory, and the directory, to a group. Blocks.
///
/// # Errors
/// If a file cannot be changed, or a path is too long.
pub fn give_to_group(root: impl AsFd, group: u32, policy: ChangePolicy) -> io::Result<()> {
    let root = root.as_fd();
    if policy == ChangePolicy::OnRootMismatch {
        let metadata = File::from(root.try_clone_to_owned()?).metadata()?;
        if metadata.gid() == group && metadata.mode() & DIRECTORY_MODE == DIRECTORY_MODE {
            return Ok(());
        }
    }
    // The root comes last, so that an interrupted change is seen as a mismatch.
    let mut remaining = vec![PathBuf::from(".")];
    while let Some(path) = remaining.pop() {
        let Some(directory) = open(root, path.as_os_str(), OFlag::O_RDONLY | OFlag::O_DIRECTORY)? else {
            continue;
        };
        for name in names(&directory)? {
            let Some(file) = open(&directory, &name, OFlag::O_PATH)? else {
                continue;
            };
            if change(&file, group)? {
                remaining.push(path.join(&name));
            }
        }
    }
    change(&root.try_clone_to_owned()?, group).map(drop)
}

/// Opens a file or directory. `None` if it is a symbolic link, is gone, or has become something else.
fn open(directory: impl AsFd, path: &OsStr, flags: OFlag) -> io::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    match openat2(directory, path, how) {
        Ok(opened) => Ok(Some(opened)),
        // Mounts in a directory of the host are not part of the volume.
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EXDEV) => Ok(None),
        // Links keep their group: it does not matter to those who follow them.
        Err(Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn names(directory: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(directory.try_clone()?)?.iter() {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

/// Changes one file. Returns whether it is a directory.
fn change(file: &OwnedFd, group: u32) -> io::Result<bool> {
    let metadata = File::from(file.try_clone()?).metadata()?;
    let is_directory = metadata.is_dir();
    if metadata.gid() != group {
        fchownat(file, "", None, Some(Gid::from_raw(group)), AtFlags::AT_EMPTY_PATH)?;
    }
    let added = if is_directory { DIRECTORY_MODE } else { FILE_MODE };
    let wanted = (metadata.mode() | added) & PERMISSIONS;
    // The change of the group may have cleared bits.
    let found = File::from(file.try_clone()?).metadata()?.mode() & PERMISSIONS;
    if found != wanted {
        // fchmod(2) refuses O_PATH; this link leads to the opened file.
        let link = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        fs::set_permissions(link, Permissions::from_mode(wanted))?;
    }
    Ok(is_directory)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn own_group(directory: &Path) -> u32 {
        fs::metadata(directory).unwrap().gid()
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & PERMISSIONS
    }

    /// Tests do not run as root, so the group stays the same, and only permissions change.
    #[test]
    fn the_group_gets_all_files_but_not_what_links_lead_to() {
        let directory = tempfile::tempdir().unwrap();
        let (volume, outside) = (directory.path().join("volume"), directory.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::create_dir(&outside).unwrap();
        for file in [volume.join("a/b/file"), outside.join("file")] {
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        }
        fs::set_permissions(&outside, Permissions::from_mode(0o700)).unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        symlink(outside.join("file"), volume.join("a/link")).unwrap();
        let root = File::open(&volume).unwrap();
        give_to_group(&root, own_group(&volume), ChangePolicy::Always).unwrap();
        assert_eq!(mode(&volume.join("a/b/file")), 0o660);
        for path in [volume.clone(), volume.join("a"), volume.join("a/b")] {
            assert_eq!(mode(&path) & DIRECTORY_MODE, DIRECTORY_MODE, "{}", path.display());
        }
        assert_eq!((mode(&outside), mode(&outside.join("file"))), (0o700, 0o600));
    }

    #[test]
    fn a_root_that_matches_can_stand_for_all_files() {
        let directory = tempfile::tempdir().unwrap();
        let (root, file) = (File::open(directory.path()).unwrap(), directory.path().join("file"));
        let give = |policy| give_to_group(&root, own_group(directory.path()), policy).unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o700)).unwrap();
        fs::write(&file, "").unwrap();
        let restrict = || fs::set_permissions(&file, Permissions::from_mode(0o400)).unwrap();
        restrict();
        give(ChangePolicy::OnRootMismatch);
        assert_eq!(mode(&file), 0o660);
        restrict();
        give(ChangePolicy::OnRootMismatch);
        assert_eq!(mode(&file), 0o400);
        give(ChangePolicy::Always);
        assert_eq!(mode(&file), 0o660);
    }
}
