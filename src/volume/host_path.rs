//! Opens the files and directories of the host that Pods share (`hostPath`): checks their types, and creates those that
//! are missing.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::allowed_host_paths::{ALLOWED_HOST_PATHS, AllowedHostPaths, HostPathType};
use super::mount_api;

/// openat2(2) fails with EAGAIN if something was renamed at the same time; this is the number of attempts.
const ATTEMPTS: usize = 16;

/// A path of the host cannot be shared. The first two messages are the kubelet's (`pkg/volume/hostpath`).
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    #[error("hostPath type check failed: {} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    #[error("hostPath type check failed: {} is not a file", .0.display())]
    NotFile(PathBuf),
    #[error("{} is neither a directory nor a regular file, so it cannot be shared with a virtual machine", .0.display())]
    Special(PathBuf),
    #[error("{} is not allowed to be used: it is, or leads, outside of the paths in security.allowedHostPaths", .0.display())]
    NotAllowed(PathBuf),
    #[error("{} cannot be shared: it is not an absolute path", .0.display())]
    NotAbsolute(PathBuf),
    /// The setting has a wrong value.
    #[error("{ALLOWED_HOST_PATHS}: {0}")]
    Setting(String),
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Opens (`O_PATH`) a path of the host that a Pod may share, and creates it where its type says so.
///
/// # Errors
/// See [`HostPathError`].
pub fn open_host_path(path: &Path, kind: HostPathType, allowed: &AllowedHostPaths) -> Result<File, HostPathError> {
    if !path.is_absolute() {
        return Err(HostPathError::NotAbsolute(path.to_owned()));
    }
    let not_allowed = || HostPathError::NotAllowed(path.to_owned());
    let (root, rest) = allowed.above(path).ok_or_else(not_allowed)?;
    let failed = |action: &'static str| {
        move |errno: Errno| match errno {
            Errno::EXDEV => HostPathError::NotAllowed(path.to_owned()),
            errno => HostPathError::Io {
                action,
                path: path.to_owned(),
                source: errno.into(),
            },
        }
    };
    let root = Root::open(root).map_err(failed("open the directory above"))?;
    let opened = match root.open_beneath(rest, OFlag::O_PATH) {
        Err(Errno::ENOENT) => match kind {
            HostPathType::Unset | HostPathType::DirectoryOrCreate => {
                root.create_directories(rest).map_err(failed("create"))?;
                root.open_beneath(rest, OFlag::O_PATH)
            }
            HostPathType::FileOrCreate => root
                .open_beneath(rest, OFlag::O_RDONLY | OFlag::O_CREAT)
                .and_then(|_| root.open_beneath(rest, OFlag::O_PATH)),
            HostPathType::Directory => return Err(HostPathError::NotDirectory(path.to_owned())),
            HostPathType::File => return Err(HostPathError::NotFile(path.to_owned())),
        },
        opened => opened,
    };
    let file = File::from(opened.map_err(failed("open"))?);
    let metadata = file.metadata().map_err(|source| HostPathError::Io {
        action: "examine",
        path: path.to_owned(),
        source,
    })?;
    let found = metadata.file_type();
    match kind {
        HostPathType::Directory | HostPathType::DirectoryOrCreate if !found.is_dir() => {
            Err(HostPathError::NotDirectory(path.to_owned()))
        }
        // The kubelet means everything that is not a directory.
        HostPathType::File | HostPathType::FileOrCreate if found.is_dir() => {
            Err(HostPathError::NotFile(path.to_owned()))
        }
        _ if found.is_socket() || found.is_fifo() || found.is_char_device() || found.is_block_device() => {
            Err(HostPathError::Special(path.to_owned()))
        }
        _ => Ok(file),
    }
}

/// A directory that paths do not leave.
#[derive(Debug)]
struct Root {
    directory: OwnedFd,
    resolve: ResolveFlag,
}

impl Root {
    fn open(path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // Links of the root directory lead nowhere else. A Pod may have created the links in other directories.
        let resolve = match path == Path::new("/") {
            true => ResolveFlag::RESOLVE_IN_ROOT,
            false => ResolveFlag::RESOLVE_BENEATH,
        };
        Ok(Self {
            directory: open(path, flags, Mode::empty())?,
            resolve: resolve | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        })
    }

    fn open_beneath(&self, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
        let path: OsString = match path.as_os_str().is_empty() {
            true => ".".into(),
            false => path.into(),
        };
        let mut how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK)
            .resolve(self.resolve);
        if flags.contains(OFlag::O_CREAT) {
            how = how.mode(Mode::from_bits_truncate(0o644));
        }
        if flags.contains(OFlag::O_PATH) {
            how = how.flags(flags | OFlag::O_CLOEXEC);
        }
        let mut result = Err(Errno::EAGAIN);
        for _ in 0..ATTEMPTS {
            result = openat2(&self.directory, path.as_os_str(), how);
            if !matches!(result, Err(Errno::EAGAIN)) {
                break;
            }
        }
        result
    }

    /// Like `mkdir -p`, with the kubelet's mode.
    fn create_directories(&self, path: &Path) -> Result<(), Errno> {
        let mut parent = self.open_beneath(Path::new(""), OFlag::O_PATH)?;
        let mut done = PathBuf::new();
        for part in path.components() {
            done.push(part);
            match mkdirat(parent.as_fd(), part.as_os_str(), Mode::from_bits_truncate(0o755)) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            parent = self.open_beneath(&done, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        }
        Ok(())
    }
}

/// A detached clone of the mount below an opened path, in which device files and set-user-ID bits do nothing. The clone has
/// all mounts below the path, but not those that follow.
///
/// # Errors
/// [`HostPathError::Io`], for example without `CAP_SYS_ADMIN`.
pub fn clone_for_share(opened: &File, path: &Path, read_only: bool) -> Result<OwnedFd, HostPathError> {
    let failed = |action: &'static str| {
        move |source: io::Error| HostPathError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    };
    let clone = mount_api::clone_mount(opened).map_err(failed("clone the mount of"))?;
    mount_api::restrict(&clone, read_only).map_err(failed("restrict the mount of"))?;
    Ok(clone)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Host(tempfile::TempDir);

    impl Host {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Opens with this directory as the only allowed one, and returns the opened path below it.
        fn open(&self, name: &str, kind: &str) -> Result<String, String> {
            let allowed = AllowedHostPaths::parse(&self.0.path().to_string_lossy()).unwrap();
            let opened = open_host_path(&self.path(name), HostPathType::parse(kind).unwrap(), &allowed);
            let opened = opened.map_err(|error| error.to_string().replace(&*self.0.path().to_string_lossy(), ""))?;
            let link = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap();
            Ok(link.strip_prefix(self.0.path()).unwrap().display().to_string())
        }
    }

    #[test]
    fn types_are_checked_with_the_kubelets_words() {
        let host = Host::new();
        fs::create_dir(host.path("directory")).unwrap();
        fs::write(host.path("file"), "").unwrap();
        for kind in ["", "Directory", "DirectoryOrCreate"] {
            assert_eq!(host.open("directory", kind).unwrap(), "directory");
        }
        for kind in ["", "File", "FileOrCreate"] {
            assert_eq!(host.open("file", kind).unwrap(), "file");
        }
        for (name, kind, message) in [
            (
                "file",
                "Directory",
                "hostPath type check failed: /file is not a directory",
            ),
            (
                "file",
                "DirectoryOrCreate",
                "hostPath type check failed: /file is not a directory",
            ),
            (
                "missing",
                "Directory",
                "hostPath type check failed: /missing is not a directory",
            ),
            (
                "directory",
                "File",
                "hostPath type check failed: /directory is not a file",
            ),
            (
                "directory",
                "FileOrCreate",
                "hostPath type check failed: /directory is not a file",
            ),
            ("missing", "File", "hostPath type check failed: /missing is not a file"),
            ("missing/file", "FileOrCreate", "cannot open /missing/file"),
        ] {
            assert_eq!(host.open(name, kind).unwrap_err(), message);
        }
        assert!(!host.path("missing").exists());
        for refused in ["Socket", "CharDevice", "BlockDevice", "directory"] {
            assert_eq!(HostPathType::parse(refused), None);
        }
    }

    #[test]
    fn missing_paths_are_created_where_the_type_says_so() {
        let host = Host::new();
        assert_eq!(host.open("a/b", "DirectoryOrCreate").unwrap(), "a/b");
        assert_eq!(host.open("a/c/d", "").unwrap(), "a/c/d");
        assert_eq!(host.open("a/file", "FileOrCreate").unwrap(), "a/file");
        assert!(fs::metadata(host.path("a/file")).unwrap().is_file());
        let mode = fs::metadata(host.path("a/b")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn links_do_not_leave_the_allowed_path() {
        let host = Host::new();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), host.path("out")).unwrap();
        symlink("../..", host.path("up")).unwrap();
        symlink("inner", host.path("in")).unwrap();
        fs::create_dir(host.path("inner")).unwrap();
        assert_eq!(host.open("in", "Directory").unwrap(), "inner");
        for (name, kind) in [
            ("out", ""),
            ("out/new", "DirectoryOrCreate"),
            ("out/new", "FileOrCreate"),
            ("up", ""),
        ] {
            let message = host.open(name, kind).unwrap_err();
            assert!(message.contains("is not allowed to be used"), "{message}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing was created");
        // Where everything is allowed, links lead anywhere.
        let opened = open_host_path(&host.path("out"), HostPathType::Directory, &AllowedHostPaths::default());
        let opened = opened.unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).unwrap();
        assert_eq!(link, outside.path());
    }

    #[test]
    fn links_do_not_leave_the_allowed_path_for_another_one_below() {
        let host = Host::new();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("x")).unwrap();
        // A Pod with the whole directory has replaced the allowed path in it.
        symlink(outside.path(), host.path("a")).unwrap();
        let allowed = format!("{},{}", host.path("a").display(), host.0.path().display());
        let allowed = AllowedHostPaths::parse(&allowed).unwrap();
        let opened = open_host_path(&host.path("a/x"), HostPathType::Directory, &allowed);
        assert!(matches!(opened, Err(HostPathError::NotAllowed(_))), "{opened:?}");
    }

    #[test]
    fn a_relative_path_is_refused_as_such() {
        let opened = open_host_path(Path::new("data"), HostPathType::Unset, &AllowedHostPaths::default());
        let message = opened.unwrap_err().to_string();
        assert_eq!(message, "data cannot be shared: it is not an absolute path");
    }

    #[test]
    fn special_files_are_not_shared() {
        let host = Host::new();
        nix::unistd::mkfifo(&host.path("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(host.path("socket")).unwrap();
        for name in ["fifo", "socket"] {
            let message = host.open(name, "").unwrap_err();
            assert!(message.contains("neither a directory nor a regular file"), "{message}");
        }
    }
}
