//! Where the emulated host's files lie. One machine belongs to one run directory, so tests with their own have their own machine.

use super::{EmulatedHostError, Result};
use crate::state::Paths;
use std::path::{Path, PathBuf};

/// Files of one emulated host.
#[derive(Debug, Clone)]
pub struct Location {
    /// Locks, record, secret, console: on the run directory, gone with a reboot as the machine is.
    run: PathBuf,
    /// The state disk.
    state: PathBuf,
}

impl Location {
    /// The machine of the directories that the environment names.
    pub fn from_env() -> Self {
        Self::new(&Paths::from_env())
    }

    /// The machine of these directories.
    pub fn new(paths: &Paths) -> Self {
        Self {
            run: paths.run_dir().join("machine"),
            state: paths.state_dir().join("machine"),
        }
    }

    /// Makes the directories, for this user alone.
    pub fn create(&self) -> Result<()> {
        for dir in [&self.run, &self.state] {
            use std::os::unix::fs::DirBuilderExt;
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(|source| EmulatedHostError::File {
                    action: "creating",
                    path: dir.clone(),
                    source,
                })?;
        }
        Ok(())
    }

    /// Whether a machine was ever started here.
    pub fn exists(&self) -> bool {
        self.run.is_dir()
    }

    /// Held by whoever starts or stops the machine.
    pub fn change_lock(&self) -> PathBuf {
        self.run.join("change.lock")
    }

    /// Held by QEMU as long as it lives.
    pub fn alive_lock(&self) -> PathBuf {
        self.run.join("alive.lock")
    }

    /// PID that QEMU itself wrote, for the case that its starter died before it wrote the record.
    pub fn qemu_pid(&self) -> PathBuf {
        self.run.join("qemu.pid")
    }

    /// [`super::host::Record`].
    pub fn record(&self) -> PathBuf {
        self.run.join("machine.json")
    }

    /// What the machine printed, and QEMU's messages.
    pub fn console(&self) -> PathBuf {
        self.run.join("console.log")
    }

    /// Secret of the connection.
    pub fn token(&self) -> PathBuf {
        self.run.join("token")
    }

    /// What the machine reads while it boots.
    pub fn control(&self) -> PathBuf {
        self.run.join("control")
    }

    /// `/var/lib/microkube` of the machine.
    pub fn disk(&self) -> PathBuf {
        self.state.join("disk.raw")
    }
}

/// What guest-image/build-emulated-host.sh built.
#[derive(Debug, Clone)]
pub struct Artefacts {
    /// Linux, as a bzImage.
    pub kernel: PathBuf,
    pub initramfs: PathBuf,
    /// `/lib/modules`.
    pub modules: PathBuf,
}

impl Artefacts {
    const FILES: [&str; 3] = ["vmlinuz", "initramfs.cpio", "modules"];

    /// Finds them: in `MICROKUBE_MACHINE_DIR`, else installed beside the executable, else in the source tree it was built in,
    /// else in `/usr/lib`.
    pub fn find() -> Result<Self> {
        let candidates = match std::env::var_os("MICROKUBE_MACHINE_DIR").filter(|dir| !dir.is_empty()) {
            Some(dir) => vec![PathBuf::from(dir)],
            None => {
                let executable = std::env::current_exe().unwrap_or_default();
                let mut dirs = Vec::new();
                if let Some(prefix) = executable.parent().and_then(Path::parent) {
                    dirs.push(prefix.join("lib/microkube/machine"));
                }
                dirs.extend(executable.ancestors().skip(1).map(|dir| dir.join("build/machine")));
                dirs.push(PathBuf::from("/usr/lib/microkube/machine"));
                dirs
            }
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
    fn a_directory_with_all_files_is_found_and_one_that_lacks_some_is_not() {
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
