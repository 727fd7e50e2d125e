//! Finds the command in the container's file system and executes it, with runc's error messages.

use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::unistd::{AccessFlags, execve, faccessat};

use super::spec::FailureKind;

/// Search path of containers whose image sets none; the same as in containerd and Docker.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why the command could not be executed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExecError {
    /// A plain name that no directory of the search path contains.
    #[error("exec: {0:?}: executable file not found in $PATH")]
    NotInPath(String),
    /// A path that stat(2) fails for.
    #[error("exec: {path:?}: stat {path}: {}", message(*errno))]
    Stat { path: String, errno: Errno },
    /// A path to a directory.
    #[error("exec: {0:?}: is a directory")]
    Directory(String),
    /// A path to a file that this user may not execute.
    #[error("exec: {0:?}: permission denied")]
    PermissionDenied(String),
    /// execve failed.
    #[error("exec {path}: {}", message(*errno))]
    Exec { path: String, errno: Errno },
    /// An argument or variable contains a NUL byte, which execve(2) cannot pass.
    #[error("exec: {0:?} contains a NUL byte")]
    Nul(String),
}

impl ExecError {
    /// The kind of failure, for callers.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NotInPath(_) => FailureKind::NotFound,
            Self::PermissionDenied(_) | Self::Directory(_) => FailureKind::PermissionDenied,
            Self::Stat { errno, .. } | Self::Exec { errno, .. } => match errno {
                Errno::ENOENT => FailureKind::NotFound,
                Errno::EACCES | Errno::EPERM => FailureKind::PermissionDenied,
                _ => FailureKind::Internal,
            },
            Self::Nul(_) => FailureKind::Internal,
        }
    }
}

/// The kernel's message, spelled as in Go programs such as runc.
fn message(errno: Errno) -> String {
    errno.desc().to_lowercase()
}

/// Finds a command as Go's `exec.LookPath` does: a name with a slash is a path, any other is searched for in `PATH`.
pub fn find(command: &str, env: &[String]) -> Result<PathBuf, ExecError> {
    if command.contains('/') {
        return match executable(Path::new(command)) {
            Ok(()) => Ok(command.into()),
            Err(Errno::EISDIR) => Err(ExecError::Directory(command.to_owned())),
            Err(Errno::EACCES) => Err(ExecError::PermissionDenied(command.to_owned())),
            Err(errno) => Err(ExecError::Stat {
                path: command.to_owned(),
                errno,
            }),
        };
    }
    let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH="));
    path.unwrap_or_default()
        .split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(command))
        .find(|candidate| !command.is_empty() && executable(candidate).is_ok())
        .ok_or_else(|| ExecError::NotInPath(command.to_owned()))
}

/// Checks that this is a file that the process may execute.
fn executable(path: &Path) -> Result<(), Errno> {
    let metadata = fs::metadata(path).map_err(|error| error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw))?;
    if metadata.is_dir() {
        return Err(Errno::EISDIR);
    }
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS)
}

/// Converts strings to the form that execve takes.
pub fn c_strings(strings: &[String]) -> Result<Vec<CString>, ExecError> {
    let convert = |text: &String| CString::new(text.as_str()).map_err(|_| ExecError::Nul(text.clone()));
    strings.iter().map(convert).collect()
}

/// Replaces the process. Returns only on failure.
pub fn execute(path: &Path, args: &[CString], env: &[CString]) -> ExecError {
    let name = path.display().to_string();
    let Ok(path) = CString::new(name.as_str()) else {
        return ExecError::Nul(name);
    };
    match execve(&path, args, env) {
        Err(errno) => ExecError::Exec { path: name, errno },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env(path: &str) -> Vec<String> {
        vec!["A=b".to_owned(), format!("PATH={path}")]
    }

    #[test]
    fn a_plain_name_is_searched_in_path() {
        let found = find("sh", &env("/nonexistent:/bin:/usr/bin")).unwrap();
        assert_eq!(found, Path::new("/bin/sh"));
    }

    #[test]
    fn a_missing_name_is_reported_as_runc_does() {
        let error = find("no-such-command", &env("/bin")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "exec: \"no-such-command\": executable file not found in $PATH"
        );
        assert_eq!(error.kind(), FailureKind::NotFound);
        assert_eq!(find("", &env("/bin")), Err(ExecError::NotInPath(String::new())));
        assert_eq!(find("sh", &[]), Err(ExecError::NotInPath("sh".to_owned())));
    }

    #[test]
    fn a_missing_path_is_reported_as_runc_does() {
        let error = find("/no/such", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "exec: \"/no/such\": stat /no/such: no such file or directory"
        );
        assert_eq!(error.kind(), FailureKind::NotFound);
    }

    #[test]
    fn a_directory_and_a_non_executable_file_have_different_errors() {
        let error = find("/etc", &[]).unwrap_err();
        assert_eq!(error.to_string(), "exec: \"/etc\": is a directory");
        let path = std::env::temp_dir().join(format!("microkube-agent-exec-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = find(path.to_str().unwrap(), &[]).unwrap_err();
        fs::remove_file(&path).unwrap();
        assert_eq!(error.to_string(), format!("exec: {path:?}: permission denied"));
        assert_eq!(error.kind(), FailureKind::PermissionDenied);
    }

    #[test]
    fn a_failed_execve_names_the_reason() {
        let error = ExecError::Exec {
            path: "/bin/x".to_owned(),
            errno: Errno::ENOEXEC,
        };
        assert_eq!(error.to_string(), "exec /bin/x: exec format error");
    }
}
