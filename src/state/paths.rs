//! Where microkube keeps its files.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The two directories below which everything lies that microkube writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state_dir: PathBuf,
    run_dir: PathBuf,
}

/// A directory of microkube cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the directory {path}")]
pub struct PathsError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl PathsError {
    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Paths {
    /// The directories named by `MICROKUBE_STATE_DIR` and `MICROKUBE_RUN_DIR`, by default `/var/lib/microkube` and
    /// `/run/microkube`.
    #[must_use]
    pub fn from_env() -> Self {
        let dir = |variable: &str, default: &str| {
            std::env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self::new(
            dir("MICROKUBE_STATE_DIR", "/var/lib/microkube"),
            dir("MICROKUBE_RUN_DIR", "/run/microkube"),
        )
    }

    /// The given directories.
    #[must_use]
    pub fn new(state_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self { state_dir, run_dir }
    }

    /// What survives a reboot.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// What does not: sockets and locks.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state_dir.join("images")
    }

    /// Address leases.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.state_dir.join("network")
    }

    /// Templates of scratch disks.
    #[must_use]
    pub fn scratch_templates(&self) -> PathBuf {
        self.state_dir.join("scratch")
    }

    /// Logs of Pods, which outlive them.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    /// One directory a Pod, named by its UID: its record and its disks.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// The state directory of one Pod.
    #[must_use]
    pub fn pod_state(&self, uid: &str) -> PathBuf {
        self.pods().join(uid)
    }

    /// The run directory of one Pod.
    #[must_use]
    pub fn pod_run(&self, uid: &str) -> PathBuf {
        self.run_dir.join("pods").join(uid)
    }

    /// The socket on which a Pod's supervisor is asked for something.
    #[must_use]
    pub fn supervisor_socket(&self, uid: &str) -> PathBuf {
        self.pod_run(uid).join("supervisor.sock")
    }

    /// Makes the directories that are missing, for root alone.
    ///
    /// # Errors
    /// [`PathsError`] names the directory.
    pub fn create(&self) -> Result<(), PathsError> {
        for path in [
            &self.state_dir,
            &self.run_dir,
            &self.pods(),
            &self.run_dir.join("pods"),
            &self.logs(),
        ] {
            create_private_dir(path).map_err(|source| PathsError {
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

/// Makes a directory and its parents, mode 0700 for the last.
pub(crate) fn create_private_dir(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Ok(()) => std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_made_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("a/state"), dir.path().join("run"));
        paths.create().unwrap();
        paths.create().unwrap();
        let mode = std::fs::metadata(paths.pods()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
