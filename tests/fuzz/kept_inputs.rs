//! Runs a crate's fuzz targets as unit tests: each gets the inputs of its kept corpus, without a fuzzer and an
//! instrumented build. Each target is therefore compiled whenever the unit tests are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Replaces the fuzzer's macro with this name.
macro_rules! fuzz_target {
    (|$bytes:ident: &[u8]| $call:expr) => {
        #[test]
        fn kept_inputs_do_not_crash() {
            crate::kept_inputs::replay(module_path!(), |$bytes: &[u8]| $call);
        }
    };
}
pub(crate) use fuzz_target;

/// The files in a directory of the fuzz package.
fn files_in(directory: &str) -> Vec<PathBuf> {
    let mut above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let directory = above.find_map(|above| Some(above.join("tests/fuzz").join(directory)).filter(|path| path.is_dir()));
    let entries = fs::read_dir(directory.expect("a directory of tests/fuzz")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target, named by its module, with its kept inputs. The last input printed is the one that failed.
pub(crate) fn replay(module: &str, target: impl Fn(&[u8])) {
    let (_, name) = module.rsplit_once("::").unwrap();
    let inputs = files_in(&format!("corpus/{name}"));
    assert!(!inputs.is_empty(), "nothing is kept for {name}");
    for input in inputs {
        println!("{}", input.display());
        target(&fs::read(&input).unwrap());
    }
}

#[test]
fn every_target_is_declared() {
    let files = files_in(concat!("targets/", env!("CARGO_PKG_NAME")));
    let (lists, targets): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| file.ends_with("mod.rs"));
    let list = fs::read_to_string(&lists[0]).unwrap();
    let declared: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.strip_prefix("mod "))
        .map(str::to_owned)
        .collect();
    let found: BTreeSet<_> = targets
        .iter()
        .map(|file| format!("{};", file.file_stem().unwrap().display()))
        .collect();
    assert_eq!(declared, found);
}
