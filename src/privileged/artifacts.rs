//! Where the files lie that microkube was built with: the guest's kernel and initramfs, and the VMM's binary.

use std::path::{Path, PathBuf};

/// A file of the installation is missing.
#[derive(Debug, thiserror::Error)]
#[error("cannot find {what}: looked at {}; build it with `make build`, or name its directory in {variable}", list(.tried))]
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

/// What the guest boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestImage {
    /// An ELF `vmlinux`.
    pub kernel: PathBuf,
    /// A cpio archive with the agent as `/init`.
    pub initramfs: PathBuf,
}

/// Finds the guest's kernel and initramfs: in `MICROKUBE_GUEST_DIR`, beside the executable, in the source tree the
/// executable was built in, or in `/usr/lib/microkube/guest`.
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

/// Finds the directory of a part of the installation, by a file that must be in it.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn find_dir(
    variable: &'static str,
    name: &str,
    marker: &str,
    what: &'static str,
) -> Result<PathBuf, ArtifactError> {
    let tried = match std::env::var_os(variable) {
        Some(dir) => vec![PathBuf::from(dir)],
        None => candidates(&std::env::current_exe().unwrap_or_default(), name),
    };
    match tried.iter().find(|dir| dir.join(marker).is_file()) {
        Some(dir) => Ok(dir.clone()),
        None => Err(ArtifactError { what, variable, tried }),
    }
}

/// The VMM: `MICROKUBE_VMM`, or `microkube-vmm` beside this executable.
///
/// # Errors
/// [`ArtifactError`] lists where it looked.
pub fn vmm_binary() -> Result<PathBuf, ArtifactError> {
    let tried = match std::env::var_os("MICROKUBE_VMM") {
        Some(path) => vec![PathBuf::from(path)],
        None => {
            let exe = std::env::current_exe().unwrap_or_default();
            // Test binaries lie one directory deeper than the programs they test.
            exe.ancestors()
                .skip(1)
                .take(2)
                .map(|dir| dir.join("microkube-vmm"))
                .collect()
        }
    };
    match tried.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => Err(ArtifactError {
            what: "the program microkube-vmm",
            variable: "MICROKUBE_VMM",
            tried,
        }),
    }
}

fn candidates(exe: &Path, name: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Some(prefix) = exe.parent().and_then(Path::parent) {
        dirs.push(prefix.join("lib/microkube").join(name));
    }
    // A source tree is recognised by its own directory of that name, so that no stranger's `build` is taken for it.
    if let Some(root) = exe.ancestors().find(|dir| dir.join("guest-image").is_dir()) {
        dirs.push(root.join("build").join(name));
    }
    dirs.push(Path::new("/usr/lib/microkube").join(name));
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_looks_beside_itself_and_in_the_system() {
        let dirs = candidates(Path::new("/opt/bin/microkube"), "guest");
        assert_eq!(
            dirs,
            [
                PathBuf::from("/opt/lib/microkube/guest"),
                PathBuf::from("/usr/lib/microkube/guest")
            ]
        );
    }

    #[test]
    fn a_program_in_a_source_tree_finds_what_the_tree_built() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("guest-image")).unwrap();
        let dirs = candidates(&tree.path().join("target/release/microkube"), "guest");
        assert!(dirs.contains(&tree.path().join("build/guest")), "{dirs:?}");
    }
}
