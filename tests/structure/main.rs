//! The structure of the workspace's own code: files of a crate do not import each other in a circle, and the groups of modules under
//! `src/` import only downwards.
//!
//! What a file imports is read from the sources: `use` declarations and paths, without those of tests. A name is imported from the file
//! that defines it, not from the module that re-exports it. Calls of methods are not seen, nor what other crates' macros expand to.

mod checker_tests;
mod circles;
mod imports;
mod layers;
mod module_tree;
mod paths;
mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use imports::Imports;
use workspace::Workspace;

/// What `src/` is made of, from the top down. A group imports from the layers below its own, and from no group beside it.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["pod"],
    &["image", "machine", "manifest", "network", "volume"],
    &["state"],
    &["causes", "child", "frame_header", "lock", "stderr", "terminal"],
];

/// The imports within each crate, by the file that the crate begins with.
static IMPORTS: LazyLock<BTreeMap<PathBuf, Imports>> = LazyLock::new(|| {
    let workspace = Workspace::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    let crates = workspace.crate_roots.iter();
    crates
        .map(|root| (root.clone(), Imports::of_crate(&workspace.sources, root)))
        .collect()
});

#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let found: Vec<String> = IMPORTS.values().flat_map(circles::find).collect();
    assert!(
        found.is_empty(),
        "files import each other in a circle\n\n{}",
        found.join("\n")
    );
}

#[test]
fn groups_import_only_from_the_layers_below_them() {
    let found = layers::violations(&IMPORTS[Path::new("src/lib.rs")], Path::new("src"), LAYERS);
    assert!(
        found.is_empty(),
        "imports that do not lead down\n\n{}",
        found.join("\n")
    );
}
