//! The locations of microkube's files.

use std::path::{Path, PathBuf};

use microkube_base::private_directory;

/// The default directory of files that survive a reboot.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/microkube";

/// The default directory of sockets and locks.
pub const DEFAULT_RUN_DIR: &str = "/run/microkube";

/// The two directories that contain all of microkube's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    state_dir: PathBuf,
    run_dir: PathBuf,
}

/// A directory of microkube is not usable.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the directory {path}")]
pub struct PathsError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl PathsError {
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Paths {
    /// The directories from `MICROKUBE_STATE_DIR` and `MICROKUBE_RUN_DIR`, or `/var/lib/microkube` and
    /// `/run/microkube`.
    #[must_use]
    pub fn from_env() -> Self {
        let dir = |variable: &str, default: &str| {
            std::env::var_os(variable)
                .filter(|value| !value.is_empty())
                .map_or_else(|| PathBuf::from(default), PathBuf::from)
        };
        Self::new(
            dir("MICROKUBE_STATE_DIR", DEFAULT_STATE_DIR),
            dir("MICROKUBE_RUN_DIR", DEFAULT_RUN_DIR),
        )
    }

    /// The given directories.
    #[must_use]
    pub fn new(state_dir: PathBuf, run_dir: PathBuf) -> Self {
        Self { state_dir, run_dir }
    }

    /// Directory of files that survive a reboot.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Directory of sockets and locks, which do not survive a reboot.
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

    /// The disks of PersistentVolumes.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// Logs of Pods, which outlive them.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    /// The store of Kubernetes objects.
    #[must_use]
    pub fn objects(&self) -> PathBuf {
        self.state_dir.join("store")
    }

    /// The journal of the store of objects.
    #[must_use]
    pub fn objects_run(&self) -> PathBuf {
        self.run_dir.join("store")
    }

    /// The key that signs the tokens of service accounts.
    #[must_use]
    pub fn service_account_key(&self) -> PathBuf {
        self.state_dir.join("service-account.key")
    }

    /// The events about objects other than Pods.
    #[must_use]
    pub fn events(&self) -> PathBuf {
        self.state_dir.join("events")
    }

    /// Contains one directory per Pod, named by its UID, with its records and disks.
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

    /// The socket of a Pod's supervisor.
    #[must_use]
    pub fn supervisor_socket(&self, uid: &str) -> PathBuf {
        self.pod_run(uid).join("supervisor.sock")
    }

    /// Creates missing directories, accessible only to root.
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
            private_directory::create(path).map_err(|source| PathsError {
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn directories_are_accessible_to_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("a/state"), dir.path().join("run"));
        paths.create().unwrap();
        paths.create().unwrap();
        let mode = std::fs::metadata(paths.pods()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn packages_delete_every_entry_of_the_state_and_run_directories() {
        let script = include_str!("../../packaging/remove-state.sh");
        let line = |start: &str| script.lines().find_map(|line| line.strip_prefix(start)).unwrap();
        let entries: Vec<&str> = line("entries='").trim_end_matches('\'').split(' ').collect();
        let paths = Paths::new("/state".into(), "/run".into());
        for path in [
            paths.images(),
            paths.network(),
            paths.scratch_templates(),
            paths.volumes(),
            paths.logs(),
            paths.events(),
            paths.objects(),
            paths.objects_run(),
            paths.pods(),
        ] {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(entries.contains(&name), "{name}");
        }
        assert_eq!(paths.service_account_key(), Path::new("/state").join(line("key=")));
    }
}
