//! Paths of the emulated host's files. Each run directory has its own emulated host, so tests with separate directories
//! have separate emulated hosts.

use super::{EmulatedHostError, Result};
use crate::installed_files;
use crate::state::Paths;
use std::path::{Path, PathBuf};

/// Paths of an emulated host's files.
#[derive(Debug, Clone)]
pub struct Location {
    /// Directory for locks, record, secret and console. It is below the run directory, so it disappears with a reboot,
    /// like the emulated host.
    run: PathBuf,
    /// Directory of the state disk.
    state: PathBuf,
}

impl Location {
    /// For the directories named by the environment.
    pub fn from_env() -> Self {
        Self::new(&Paths::from_env())
    }

    /// For these directories.
    pub fn new(paths: &Paths) -> Self {
        Self {
            run: paths.run_dir().join("machine"),
            state: paths.state_dir().join("machine"),
        }
    }

    /// Creates the directories, accessible only to this user.
    pub fn create(&self) -> Result<()> {
        for dir in [&self.run, &self.state] {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| EmulatedHostError::File {
                    action: "create",
                    path: dir.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    /// Whether an emulated host was ever started here.
    pub fn exists(&self) -> bool {
        self.run.is_dir()
    }

    /// Lock that is held while the emulated host is started or stopped.
    pub fn change_lock(&self) -> PathBuf {
        self.run.join("change.lock")
    }

    /// Lock that QEMU holds while it runs.
    pub fn alive_lock(&self) -> PathBuf {
        self.run.join("alive.lock")
    }

    /// PID file that QEMU itself writes, in case its starter dies before it writes the record.
    pub fn qemu_pid(&self) -> PathBuf {
        self.run.join("qemu.pid")
    }

    /// [`super::host::Record`].
    pub fn record(&self) -> PathBuf {
        self.run.join("machine.json")
    }

    /// Output of the emulated host, and QEMU's messages.
    pub fn console(&self) -> PathBuf {
        self.run.join("console.log")
    }

    /// The secret of the connection.
    pub fn token(&self) -> PathBuf {
        self.run.join("token")
    }

    /// Files that the emulated host reads while it boots.
    pub fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// The disk mounted at `/var/lib/microkube` in the emulated host.
    pub fn disk(&self) -> PathBuf {
        self.state.join("disk.raw")
    }
}

/// The directory with the emulated host's kernel, initramfs and modules, if it is found.
pub fn files() -> Option<PathBuf> {
    Artefacts::find().ok()?.kernel.parent().map(Path::to_owned)
}

/// The output of guest-image/build-emulated-host.sh.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// The Linux kernel, as a bzImage.
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// The content of `/lib/modules`.
    pub modules: PathBuf,
}

impl Artefacts {
    const FILES: [&str; 3] = ["vmlinuz", "initramfs.cpio", "modules"];

    /// Finds the files: in `MICROKUBE_MACHINE_DIR`, installed next to the executable, in the source tree in which it
    /// was built, or in `/usr/lib`.
    pub fn find() -> Result<Self> {
        let candidates = match std::env::var_os("MICROKUBE_MACHINE_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => vec![PathBuf::from(dir)],
            None => installed_files::directories(&std::env::current_exe().unwrap_or_default(), "machine"),
        };
        Self::find_in(&candidates)
    }

    fn find_in(candidates: &[PathBuf]) -> Result<Self> {
        candidates
            .iter()
            .find(|dir| Self::FILES.iter().all(|file| dir.join(file).exists()))
            .map(|dir| Self {
                kernel: dir.join("vmlinuz"),
                initramfs: dir.join("initramfs.cpio"),
                modules: dir.join("modules"),
            })
            .ok_or_else(|| EmulatedHostError::NoArtefacts {
                searched: candidates
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_with_all_files_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (half, whole) = (dir.path().join("half"), dir.path().join("whole"));
        std::fs::create_dir_all(&half).unwrap();
        std::fs::create_dir_all(whole.join("modules")).unwrap();
        for file in ["vmlinuz", "initramfs.cpio"] {
            std::fs::write(half.join(file), "").unwrap();
            std::fs::write(whole.join(file), "").unwrap();
        }
        let found = Artefacts::find_in(&[half.clone(), whole.clone()]).unwrap();
        assert_eq!(found.kernel, whole.join("vmlinuz"));
        let error = Artefacts::find_in(std::slice::from_ref(&half)).unwrap_err();
        assert!(
            error.to_string().contains("half") && error.to_string().contains("make build"),
            "{error}"
        );
    }
}
