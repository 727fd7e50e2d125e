//! The results of `make build`.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn source_tree() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the tests are in the source tree")
}

/// The program under test: `MICROKUBE_PROGRAM`, or else this tree's release build. `microkube-vmm` is next to it.
pub fn microkube_program() -> PathBuf {
    let program = std::env::var_os("MICROKUBE_PROGRAM").map_or_else(release_build, PathBuf::from);
    assert!(
        program.is_file(),
        "{} does not exist: run `make build`, or set MICROKUBE_PROGRAM",
        program.display()
    );
    program
}

fn release_build() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    source_tree().join(target).join("release/microkube")
}
