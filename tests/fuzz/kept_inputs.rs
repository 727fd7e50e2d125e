//! The fuzz targets as unit tests of the library: each takes the inputs of its kept corpus, without a fuzzer and its instrumented build.
//! So each target is also compiled whenever the unit tests are.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Stands for the fuzzer's macro of this name.
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $call:expr) => {
        #[test]
        fn kept_inputs_are_taken() {
            crate::kept_inputs::replay(module_path!(), |$bytes: &[u8]| $call);
        }
    };
}
pub(crate) use fuzz_target;

/// Declares the targets' modules. `no_main` in them is for the fuzzer.
macro_rules! targets {
    ($($name:ident $path:literal)*) => {
        $(#[allow(unused_attributes)] #[path = $path] mod $name;)*
        const TARGETS: &[&str] = &[$($path),*];
    };
}

targets! {
    command_line "targets/command_line.rs"
    container_log "targets/container_log.rs"
    guest "targets/guest.rs"
    health_response "targets/health_response.rs"
    image_archive "targets/image_archive.rs"
    image_config "targets/image_config.rs"
    manifest "targets/manifest.rs"
    registry_response "targets/registry_response.rs"
    tar_to_erofs "targets/tar_to_erofs.rs"
}

fn files_in(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(directory);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Gives a target, named by its module, what is kept for it. What is printed last is what it failed at.
fn replay(module: &str, target: impl Fn(&[u8])) {
    let (_, name) = module.rsplit_once("::").unwrap();
    let inputs = files_in(&format!("corpus/{name}"));
    assert!(!inputs.is_empty(), "nothing is kept for {name}");
    for input in inputs {
        println!("{}", input.display());
        target(&std::fs::read(&input).unwrap());
    }
}

#[test]
fn every_target_is_declared() {
    let declared: BTreeSet<_> = TARGETS.iter().map(|path| (*path).to_owned()).collect();
    let found = files_in("targets").into_iter();
    let found: BTreeSet<_> = found
        .map(|file| format!("targets/{}", file.file_name().unwrap().display()))
        .collect();
    assert_eq!(declared, found);
}
