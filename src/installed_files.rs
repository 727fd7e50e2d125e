//! Locates the files that belong to this program, where they are installed or were built.

use std::path::{Path, PathBuf};

/// The directories that may hold the files `name` (`guest`, `machine`) of a program, the first choice first.
#[must_use]
pub fn directories(executable: &Path, name: &str) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    if let Some(prefix) = executable.parent().and_then(Path::parent) {
        dirs.push(prefix.join("lib/microkube").join(name));
    }
    // A source tree is recognised by its `guest-image` directory, to avoid using another project's `build`.
    if let Some(root) = executable.ancestors().find(|dir| dir.join("guest-image").is_dir()) {
        dirs.push(root.join("build").join(name));
    }
    let system = Path::new("/usr/lib/microkube").join(name);
    if !dirs.contains(&system) {
        dirs.push(system);
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installed_program_searches_its_own_and_the_system_directory_once() {
        let system = PathBuf::from("/usr/lib/microkube/guest");
        assert_eq!(
            directories(Path::new("/opt/bin/microkube"), "guest"),
            [PathBuf::from("/opt/lib/microkube/guest"), system.clone()]
        );
        assert_eq!(directories(Path::new("/usr/bin/microkube"), "guest"), [system]);
    }

    #[test]
    fn a_program_in_a_source_tree_finds_what_the_tree_built() {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir(tree.path().join("guest-image")).unwrap();
        let dirs = directories(&tree.path().join("target/release/microkube"), "machine");
        assert!(dirs.contains(&tree.path().join("build/machine")), "{dirs:?}");
    }
}
