//! `subPath` of a volume mount: found or created inside the volume, never outside.
//!
//! Running containers may write to the volume at the same time. Every step is therefore relative to a descriptor, the
//! kernel refuses to leave the volume (`RESOLVE_BENEATH`), and the result is mounted by its descriptor, so replacing a
//! symbolic link cannot redirect the mount.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// openat2(2) fails with EAGAIN if something was renamed at the same time; this is the number of attempts.
const ATTEMPTS: usize = 64;

/// Why a `subPath` cannot be mounted, in the kubelet's words (`makeMounts` in `pkg/kubelet/kubelet_pods.go`). The host
/// adds the name of the container.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubPathError {
    /// It leads out of the volume, or cannot be opened.
    #[error("failed to prepare subPath for volumeMount {volume:?}")]
    Prepare {
        volume: String,
        #[source]
        errno: Errno,
    },
    /// It does not exist and cannot be created.
    #[error("failed to create subPath directory for volumeMount {volume:?}")]
    Create {
        volume: String,
        #[source]
        errno: Errno,
    },
}

/// Why the `subPath` of an image volume cannot be mounted, in containerd's words (`ensureImageSubPath` in its
/// `internal/cri/server/container_image_mount.go`).
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "failed to mount image volume: ImageVolumeMountFailed: failed to ensure image subpath {path:?} in {volume:?}: {problem}"
)]
pub struct ImageSubPathError {
    pub volume: String,
    pub path: PathBuf,
    pub problem: String,
}

/// Opens (`O_PATH`) a directory in an image volume by its relative path. Symbolic links may lead anywhere inside the
/// volume. Nothing is created, because the volume is read-only.
pub fn open_in_image(volume: BorrowedFd<'_>, volume_name: &str, path: &Path) -> Result<OwnedFd, ImageSubPathError> {
    let error = |problem| ImageSubPathError {
        volume: volume_name.to_owned(),
        path: path.to_owned(),
        problem,
    };
    let open_error = |errno| error(format!("openat {}: {}", path.display(), go_text(errno)));
    let found = open_beneath(volume, path, ResolveFlag::empty()).map_err(open_error)?;
    let kind = SFlag::from_bits_truncate(fstat(&found).map_err(open_error)?.st_mode) & SFlag::S_IFMT;
    match kind == SFlag::S_IFDIR {
        true => Ok(found),
        false => Err(error("only directory subpath is supported".to_owned())),
    }
}

/// The error as containerd's standard library words it.
fn go_text(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT => "no such file or directory",
        Errno::ENOTDIR => "not a directory",
        Errno::EXDEV => "path escapes from parent",
        Errno::ELOOP => "too many levels of symbolic links",
        errno => errno.desc(),
    }
}

/// Opens (`O_PATH`) a relative path in a volume. Symbolic links may lead anywhere inside the volume; missing
/// directories are created with the volume's own mode, as the kubelet does.
pub fn open(volume: BorrowedFd<'_>, volume_name: &str, path: &Path) -> Result<OwnedFd, SubPathError> {
    let prepare = |errno| SubPathError::Prepare {
        volume: volume_name.to_owned(),
        errno,
    };
    let create = |errno| match errno {
        // The existing part leads out of the volume.
        Errno::EXDEV => prepare(errno),
        errno => SubPathError::Create {
            volume: volume_name.to_owned(),
            errno,
        },
    };
    let mut found = open_beneath(volume, path, ResolveFlag::empty());
    if matches!(found, Err(Errno::ENOENT)) {
        // An update of a file volume may just have removed the directory to which `..data` led.
        found = open_beneath(volume, path, ResolveFlag::empty());
    }
    match found {
        Ok(found) => Ok(found),
        Err(Errno::ENOENT) => make(volume, path).map_err(create),
        Err(errno) => Err(prepare(errno)),
    }
}

/// Creates the missing components and opens the last one.
fn make(volume: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_bits_truncate(fstat(volume)?.st_mode & 0o7777);
    let names: Vec<&OsStr> = path
        .components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect();
    let (mut parent, missing) = existing_part(volume, &names)?;
    for name in missing {
        match mkdirat(&parent, *name, mode) {
            // Another container of the Pod has created it first.
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
        }
        // A dangling symbolic link is not followed: nothing is created where it leads.
        parent = open_beneath(parent.as_fd(), Path::new(name), ResolveFlag::RESOLVE_NO_SYMLINKS)?;
    }
    Ok(parent)
}

/// The longest prefix of a path that exists, and the names after it.
fn existing_part<'n>(volume: BorrowedFd<'_>, names: &'n [&'n OsStr]) -> Result<(OwnedFd, &'n [&'n OsStr]), Errno> {
    for length in (1..names.len()).rev() {
        let Some((there, missing)) = names.split_at_checked(length) else {
            continue;
        };
        match open_beneath(volume, &there.iter().collect::<PathBuf>(), ResolveFlag::empty()) {
            Ok(found) => return Ok((found, missing)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((open_beneath(volume, Path::new("."), ResolveFlag::empty())?, names))
}

fn open_beneath(directory: BorrowedFd<'_>, path: &Path, more: ResolveFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | more);
    let mut result = Err(Errno::EAGAIN);
    for _ in 0..ATTEMPTS {
        result = openat2(directory, path, how);
        if !matches!(result, Err(Errno::EAGAIN | Errno::EINTR)) {
            break;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::test_directory::TestDirectory;

    fn open_in(volume: &TestDirectory, path: &str) -> Result<PathBuf, SubPathError> {
        let directory = File::open(volume.path()).unwrap();
        let found = open(directory.as_fd(), "data", Path::new(path))?;
        Ok(fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap())
    }

    fn prepare(errno: Errno) -> SubPathError {
        SubPathError::Prepare {
            volume: "data".to_owned(),
            errno,
        }
    }

    fn create(errno: Errno) -> SubPathError {
        SubPathError::Create {
            volume: "data".to_owned(),
            errno,
        }
    }

    #[test]
    fn a_sub_path_that_leaves_the_volume_is_refused_and_creates_nothing() {
        let outer = TestDirectory::new("sub-path-out");
        fs::create_dir(outer.join("secret")).unwrap();
        let volume = TestDirectory::new("sub-path-out-volume");
        symlink(outer.path(), volume.join("absolute")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        symlink("../..", volume.join("up")).unwrap();
        symlink("/no/such/place", volume.join("nowhere")).unwrap();
        for path in [
            "absolute",
            "absolute/secret",
            "absolute/new",
            "etc",
            "up",
            "up/new/deeper",
            "nowhere",
            "nowhere/new",
        ] {
            assert_eq!(open_in(&volume, path), Err(prepare(Errno::EXDEV)), "{path}");
        }
        assert_eq!(
            prepare(Errno::EXDEV).to_string(),
            "failed to prepare subPath for volumeMount \"data\""
        );
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
        assert_eq!(fs::read_dir(volume.path()).unwrap().count(), 4);
    }

    #[test]
    fn links_within_the_volume_are_followed() {
        let volume = TestDirectory::new("sub-path-inside");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        symlink("b/../../a/b", volume.join("a/link")).unwrap();
        assert_eq!(open_in(&volume, "a/link").unwrap(), volume.join("a/b"));
        assert_eq!(open_in(&volume, "a/link/new").unwrap(), volume.join("a/b/new"));
        assert_eq!(open_in(&volume, "./a/file").unwrap(), volume.join("a/file"));
    }

    #[test]
    fn a_sub_path_of_a_file_volume_is_the_file_itself() {
        let volume = TestDirectory::new("sub-path-files");
        fs::create_dir_all(volume.join("..2026_11_27/user")).unwrap();
        fs::write(volume.join("..2026_11_27/user/labels"), "").unwrap();
        symlink("..2026_11_27", volume.join("..data")).unwrap();
        symlink("..data/user", volume.join("user")).unwrap();
        let labels = volume.join("..2026_11_27/user/labels");
        assert_eq!(open_in(&volume, "user/labels").unwrap(), labels);
        assert_eq!(open_in(&volume, "user").unwrap(), volume.join("..2026_11_27/user"));
    }

    #[test]
    fn missing_directories_get_the_mode_of_the_volume() {
        let volume = TestDirectory::new("sub-path-mode");
        fs::set_permissions(volume.path(), fs::Permissions::from_mode(0o750)).unwrap();
        assert_eq!(open_in(&volume, "x/y/z").unwrap(), volume.join("x/y/z"));
        let mode = fs::metadata(volume.join("x/y")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o750);
        assert_eq!(open_in(&volume, "x/y/z").unwrap(), volume.join("x/y/z"));
    }

    #[test]
    fn a_path_that_cannot_be_created_is_an_error() {
        let volume = TestDirectory::new("sub-path-not-made");
        symlink("missing", volume.join("dangling")).unwrap();
        symlink("loop", volume.join("loop")).unwrap();
        fs::write(volume.join("file"), "").unwrap();
        assert_eq!(open_in(&volume, "dangling"), Err(create(Errno::ELOOP)));
        assert_eq!(open_in(&volume, "loop"), Err(prepare(Errno::ELOOP)));
        assert_eq!(open_in(&volume, "file/new"), Err(prepare(Errno::ENOTDIR)));
        assert!(!volume.join("missing").exists());
        assert_eq!(
            create(Errno::ELOOP).to_string(),
            "failed to create subPath directory for volumeMount \"data\""
        );
    }

    #[test]
    fn a_sub_path_of_an_image_must_be_a_directory_that_exists() {
        let volume = TestDirectory::new("sub-path-image");
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/file"), "").unwrap();
        symlink("a/b", volume.join("link")).unwrap();
        symlink("/etc", volume.join("etc")).unwrap();
        let directory = File::open(volume.path()).unwrap();
        let open = |path: &str| {
            let found = open_in_image(directory.as_fd(), "model", Path::new(path)).map_err(|error| error.problem)?;
            Ok::<_, String>(fs::read_link(format!("/proc/self/fd/{}", found.as_raw_fd())).unwrap())
        };
        assert_eq!(open("a/b"), Ok(volume.join("a/b")));
        assert_eq!(open("link"), Ok(volume.join("a/b")));
        for (path, problem) in [
            ("a/c", "openat a/c: no such file or directory"),
            ("a/file/c", "openat a/file/c: not a directory"),
            ("a/file", "only directory subpath is supported"),
            ("etc", "openat etc: path escapes from parent"),
        ] {
            assert_eq!(open(path), Err(problem.to_owned()));
        }
        assert!(!volume.join("a/c").exists());
    }

    #[test]
    fn a_concurrently_swapped_link_never_leads_outside() {
        let outer = TestDirectory::new("sub-path-race-outer");
        let volume = TestDirectory::new("sub-path-race");
        fs::create_dir(volume.join("inner")).unwrap();
        symlink("inner", volume.join("link")).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for target in [outer.path(), Path::new("inner")].into_iter().cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    symlink(target, volume.join("next")).unwrap();
                    fs::rename(volume.join("next"), volume.join("link")).unwrap();
                }
            });
            for number in 0..2000 {
                if let Ok(found) = open_in(&volume, &format!("link/{number}")) {
                    assert!(found.starts_with(volume.join("inner")), "{}", found.display());
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 0);
    }
}
