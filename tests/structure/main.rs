//! The structure of the workspace's own code: files of a crate do not import each other in a circle; crates, and groups
//! of modules under `src/`, depend only on lower layers; only `src/privileged` uses code that needs root; and every
//! declared dependency is used.
//!
//! Imports are read from the sources: `use` declarations and paths, without tests. A name counts as imported from the
//! file that defines it, not from a module that re-exports it. Method calls and expansions of other crates' macros are
//! not seen.

mod checker_tests;
mod circles;
mod dependencies;
mod imports;
mod layers;
mod module_tree;
mod paths;
mod reserved;
mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use dependencies::Package;
use imports::Imports;
use workspace::Workspace;

/// The packages with crates, from the top down. A package depends only on layers below its own, and on no package in
/// the same layer.
const CRATES: &[&[&str]] = &[
    &["microkube", "microkube-agent"],
    &["microkube-claims", "microkube-projection"],
    &[
        "microkube-file-server",
        "microkube-image",
        "microkube-manifest",
        "microkube-store",
        "microkube-vmm",
    ],
    &["microkube-erofs"],
    &[
        "microkube-base",
        "microkube-go-template",
        "microkube-patch",
        "microkube-protocol",
        "microkube-seccomp",
        "microkube-tar",
    ],
];

/// The groups of `src/`, from the top down. A group imports only from layers below its own, and from no group in the
/// same layer.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["config"],
    &["pod"],
    &["objects", "privileged"],
    &["emulated_host", "network", "volume"],
    &["state"],
    &["build_id", "frame_header", "installed_files", "stderr", "terminal"],
];

/// The files that change the host as root. The files of `src/network` and `src/volume` that are not listed only
/// compute.
const PRIVILEGED: &[&str] = &[
    "src/network/firewall.rs",
    "src/network/lease.rs",
    "src/network/link.rs",
    "src/network/mod.rs",
    "src/network/nftables",
    "src/network/nftables.rs",
    "src/network/tap.rs",
    "src/volume/host_path.rs",
    "src/volume/mount_api.rs",
    "src/volume/scratch.rs",
];

/// Crates for the kernel's network configuration.
const NETLINK_CRATES: &[&str] = &[
    "netlink_packet_core",
    "netlink_packet_route",
    "netlink_sys",
    "rtnetlink",
];

/// Dependencies that are used although no code here names them, with the reason.
const USED_WITHOUT_NAME: &[(&str, &str)] = &[
    (
        "microkube-protocol: async-trait (dependencies)",
        "code generated from agent.proto",
    ),
    (
        "microkube-protocol: ttrpc (dependencies)",
        "code generated from agent.proto",
    ),
];

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(|| Workspace::read(Path::new(env!("CARGO_MANIFEST_DIR"))));

/// The imports within each crate, by the crate's root file.
static IMPORTS: LazyLock<BTreeMap<PathBuf, Imports>> = LazyLock::new(|| {
    let crates = WORKSPACE.crate_roots.iter();
    crates
        .map(|root| (root.clone(), Imports::of_crate(&WORKSPACE.sources, root)))
        .collect()
});

#[test]
fn files_have_no_import_cycles() {
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
fn only_the_privileged_module_changes_the_host() {
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

#[test]
fn every_declared_dependency_is_used() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
    let members = workspace::members(workspace);
    // In a separate workspace.
    let fuzz = Package::read(workspace, Path::new("tests/fuzz"));
    let packages: Vec<Package> = members.iter().map(|member| Package::read(workspace, member)).collect();
    let mut found = dependencies::undeclared(workspace, &packages);
    found.extend(packages.iter().chain([&fuzz]).flat_map(Package::unused));
    for (name, reason) in USED_WITHOUT_NAME {
        let place = found.iter().position(|dependency| dependency == name);
        let place = place
            .unwrap_or_else(|| panic!("{name} is used by its name, or not declared: remove the exception ({reason})"));
        found.remove(place);
    }
    assert!(
        found.is_empty(),
        "nothing uses these dependencies; a dependency of tests alone belongs to dev-dependencies\n\n  {}",
        found.join("\n  ")
    );
}
