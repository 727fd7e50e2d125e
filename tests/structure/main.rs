//! The structure of the workspace's own code: files of a crate do not import each other in a circle, crates, as well as the groups of
//! modules under `src/`, depend only on what is below them, and only `src/privileged` uses what needs root's privileges.
//!
//! What a file imports is read from the sources: `use` declarations and paths, without those of tests. A name is imported from the file
//! that defines it, not from the module that re-exports it. Calls of methods are not seen, nor what other crates' macros expand to.

mod checker_tests;
mod circles;
mod imports;
mod layers;
mod module_tree;
mod paths;
mod reserved;
mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use imports::Imports;
use workspace::Workspace;

/// The packages with crates, from the top down. A package depends on layers below its own, and on no package beside it.
const CRATES: &[&[&str]] = &[
    &["microkube", "microkube-agent"],
    &["microkube-image", "microkube-manifest", "microkube-vmm"],
    &["microkube-erofs"],
    &["microkube-base", "microkube-protocol", "microkube-tar"],
];

/// What `src/` is made of, from the top down. A group imports from the layers below its own, and from no group beside it.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["pod"],
    &["privileged"],
    &["emulated_host", "network", "volume"],
    &["state"],
    &["build_id", "frame_header", "stderr", "terminal"],
];

/// What changes the host with root's privileges. What is not named here of `src/network` only computes.
const PRIVILEGED: &[&str] = &[
    "src/network/firewall.rs",
    "src/network/lease.rs",
    "src/network/link.rs",
    "src/network/mod.rs",
    "src/network/nftables",
    "src/network/nftables.rs",
    "src/network/tap.rs",
    "src/volume",
];

/// Crates that speak to the kernel's network configuration.
const NETLINK_CRATES: &[&str] = &[
    "netlink_packet_core",
    "netlink_packet_route",
    "netlink_sys",
    "rtnetlink",
];

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(|| Workspace::read(Path::new(env!("CARGO_MANIFEST_DIR"))));

/// The imports within each crate, by the file that the crate begins with.
static IMPORTS: LazyLock<BTreeMap<PathBuf, Imports>> = LazyLock::new(|| {
    let crates = WORKSPACE.crate_roots.iter();
    crates
        .map(|root| (root.clone(), Imports::of_crate(&WORKSPACE.sources, root)))
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

#[test]
fn crates_depend_only_on_the_layers_below_them() {
    let found = layers::violations_of_crates(&WORKSPACE.dependencies, CRATES);
    assert!(
        found.is_empty(),
        "dependencies that do not lead down\n\n{}",
        found.join("\n")
    );
}

#[test]
fn only_the_privileged_part_changes_the_host() {
    let reserved: Vec<&Path> = PRIVILEGED.iter().map(Path::new).collect();
    let sources = Path::new("src");
    let imports = &IMPORTS[Path::new("src/lib.rs")];
    let mut found = reserved::violations(imports, sources, Path::new("src/privileged"), &reserved);
    found.extend(reserved::crate_violations(
        &WORKSPACE.sources,
        sources,
        Path::new("src/network"),
        NETLINK_CRATES,
    ));
    assert!(
        found.is_empty(),
        "only src/privileged may use these\n\n{}",
        found.join("\n")
    );
}
