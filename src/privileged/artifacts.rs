//! Finds the files that microkube is installed with: the guest kernel and initramfs, the VMM and the file server.

use std::path::PathBuf;

use crate::installed_files;

/// An installed file is missing.
#[derive(Debug, thiserror::Error)]
#[error("cannot find {what} in {}; reinstall the package microkube, build it with `make build`, or set {variable} to its location", list(.tried))]
pub struct ArtifactError {
    what: &'static str,
    variable: &'static str,
    tried: Vec<PathBuf>,
}

fn list(paths: &[PathBuf]) -> String {
    paths
        .iter()
        .map(|path| path.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// The files from which the guest boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// An ELF `vmlinux`.
    pub kernel: PathBuf,
    /// A cpio archive with the agent as `/init`.
    pub initramfs: PathBuf,
}

/// Finds the guest kernel and initramfs: in `MICROKUBE_GUEST_DIR`, next to the executable, in the source tree in
/// which the executable was built, or in `/usr/lib/microkube/guest`.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn guest_image() -> Result<GuestImage, ArtifactError> {
    let dir = find_dir("MICROKUBE_GUEST_DIR", "guest", "vmlinux", "the guest kernel")?;
    Ok(GuestImage {
        kernel: dir.join("vmlinux"),
        initramfs: dir.join("initramfs.cpio"),
    })
}

/// Finds the directory of an installed component by a file in it.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn find_dir(
    variable: &'static str,
    name: &str,
    marker: &str,
    what: &'static str,
) -> Result<PathBuf, ArtifactError> {
    let tried = match std::env::var_os(variable).filter(|dir| !dir.is_empty()) {
        Some(dir) => vec![PathBuf::from(dir)],
        None => installed_files::directories(&std::env::current_exe().unwrap_or_default(), name),
    };
    match tried.iter().find(|dir| dir.join(marker).is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => Err(ArtifactError { what, variable, tried }),
    }
}

/// Finds the VMM: `MICROKUBE_VMM`, or `microkube-vmm` next to this executable.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn vmm_binary() -> Result<PathBuf, ArtifactError> {
    find_program("MICROKUBE_VMM", "microkube-vmm", "the program microkube-vmm")
}

/// Finds the file server: `MICROKUBE_FILE_SERVER`, or `microkube-file-server` next to this executable.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn file_server_binary() -> Result<PathBuf, ArtifactError> {
    find_program(
        "MICROKUBE_FILE_SERVER",
        "microkube-file-server",
        "the program microkube-file-server",
    )
}

fn find_program(variable: &'static str, name: &str, what: &'static str) -> Result<PathBuf, ArtifactError> {
    let tried = match std::env::var_os(variable).filter(|path| !path.is_empty()) {
        Some(path) => vec![PathBuf::from(path)],
        None => {
            let exe = std::env::current_exe().unwrap_or_default();
            // Test binaries are one directory below the programs that they test.
            exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).collect()
        }
    };
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(ArtifactError { what, variable, tried }),
    }
}
