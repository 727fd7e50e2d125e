//! The crates of a workspace and their sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Source texts by their path in the workspace.
pub type Sources = BTreeMap<PathBuf, String>;

#[derive(Debug)]
pub struct Workspace {
    /// The crates' root files: `src/lib.rs`, `src/main.rs`, `src/bin/*.rs` of every member.
    pub crate_roots: Vec<PathBuf>,
    pub sources: Sources,
    /// The packages with crates, and the other packages of the workspace that each depends on, including for its tests.
    pub dependencies: BTreeMap<String, BTreeSet<String>>,
}

impl Workspace {
    pub fn read(dir: &Path) -> Self {
        let mut workspace = Self {
            crate_roots: Vec::new(),
            sources: Sources::new(),
            dependencies: BTreeMap::new(),
        };
        for member in members(dir) {
            // A member may consist only of tests.
            if !dir.join(&member).join("src").is_dir() {
                continue;
            }
            read_dir(dir, &member.join("src"), &mut workspace.sources);
            let roots = workspace.sources.keys().filter(|file| is_crate_root(file, &member));
            workspace.crate_roots.extend(roots.cloned());
            let (package, dependencies) = dependencies(&read_manifest(&dir.join(&member)));
            workspace.dependencies.insert(package, dependencies);
        }
        let packages: BTreeSet<String> = workspace.dependencies.keys().cloned().collect();
        for dependencies in workspace.dependencies.values_mut() {
            dependencies.retain(|dependency| packages.contains(dependency));
        }
        assert!(!workspace.crate_roots.is_empty(), "no crates in {}", dir.display());
        workspace
    }
}

pub fn read_manifest(package: &Path) -> toml::Table {
    let file = package.join("Cargo.toml");
    let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.parse()
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A package's name and the names of its dependencies.
fn dependencies(manifest: &toml::Table) -> (String, BTreeSet<String>) {
    let tables = ["dependencies", "dev-dependencies", "build-dependencies"];
    let tables = tables.iter().filter_map(|table| manifest.get(*table)?.as_table());
    let dependencies = tables.flat_map(|table| table.keys().cloned()).collect();
    (manifest["package"]["name"].as_str().unwrap().to_owned(), dependencies)
}

/// The directories of the workspace's packages, relative to the workspace.
pub fn members(dir: &Path) -> Vec<PathBuf> {
    let manifest = read_manifest(dir);
    let members = manifest["workspace"]["members"].as_array().unwrap();
    members
        .iter()
        .map(|member| {
            let member = member.as_str().unwrap();
            assert!(
                !member.contains('*'),
                "{member}: patterns among the workspace's members are not read here"
            );
            Path::new(member)
                .components()
                .filter(|part| part.as_os_str() != ".")
                .collect()
        })
        .collect()
}

fn is_crate_root(file: &Path, member: &Path) -> bool {
    let Ok(file) = file.strip_prefix(member.join("src")) else {
        return false;
    };
    file == Path::new("lib.rs") || file == Path::new("main.rs") || file.parent() == Some(Path::new("bin"))
}

/// Reads the source files in a directory, relative to the workspace's own, and below it.
pub fn read_dir(workspace: &Path, dir: &Path, sources: &mut Sources) {
    for entry in fs::read_dir(workspace.join(dir)).unwrap() {
        let entry = entry.unwrap();
        let path = dir.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            read_dir(workspace, &path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(entry.path()).unwrap();
            sources.insert(path, text);
        }
    }
}
