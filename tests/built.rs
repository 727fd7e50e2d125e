//! What `make build` made, and where it lies.

use std::path::{Path, PathBuf};

/// The directory of the whole source tree.
pub fn source_tree() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests lie in the source tree")
}

/// The program under test: `MICROKUBE_PROGRAM`, otherwise the release build of this tree. `microkube-vmm` lies beside it.
pub fn microkube_program() -> PathBuf {
    let program = std::env::var_os("MICROKUBE_PROGRAM").map_or_else(release_build, PathBuf::from);
    assert!(
        program.is_file(),
        "{} is not there: run `make build`, or name the program in MICROKUBE_PROGRAM",
        program.display()
    );
    program
}

fn release_build() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    source_tree().join(target).join("release/microkube")
}
