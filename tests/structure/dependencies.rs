//! Dependencies that a package declares and does not use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::module_tree::ModuleTree;
use crate::workspace::{Sources, read_dir, read_manifest};

/// Code of a package with the dependencies that its manifest declares for it.
#[derive(Debug)]
struct Part {
    /// The manifest's table.
    table: &'static str,
    declared: BTreeSet<String>,
    code: Code,
}

#[derive(Debug)]
enum Code {
    /// Library and programs, without their tests: all names that can be crates.
    Names(BTreeSet<String>),
    /// Tests, which are also in the files of library and programs, or the build script.
    Texts(Vec<String>),
}

/// The packages' dependencies.
#[derive(Debug)]
pub struct Package {
    name: String,
    parts: Vec<Part>,
}

impl Package {
    /// Reads the package in the directory `member` of the workspace.
    pub fn read(workspace: &Path, member: &Path) -> Self {
        let manifest = read_manifest(&workspace.join(member));
        assert!(
            !manifest.contains_key("target"),
            "{member:?}: tables of platforms are not read here"
        );
        let mut sources = Sources::new();
        let src = member.join("src");
        if workspace.join(&src).is_dir() {
            read_dir(workspace, &src, &mut sources);
        }
        let mut roots: Vec<PathBuf> = ["lib", "bin"].iter().flat_map(|kind| paths(&manifest, kind)).collect();
        roots.extend(["src/lib.rs", "src/main.rs"].map(PathBuf::from));
        roots.sort();
        roots.dedup();
        let mut names = BTreeSet::new();
        let mut files: BTreeSet<PathBuf> = sources.keys().cloned().collect();
        for root in roots.iter().map(|root| member.join(root)) {
            if !workspace.join(&root).is_file() {
                continue;
            }
            read_dir(workspace, root.parent().unwrap(), &mut sources);
            let tree = ModuleTree::read(&sources, &root);
            names.extend(crate_names(&tree));
            files.extend(tree.modules.into_iter().map(|module| module.file));
        }
        let mut tests: Vec<String> = files.iter().map(|file| sources[file].clone()).collect();
        for path in ["test", "bench", "example"]
            .iter()
            .flat_map(|kind| paths(&manifest, kind))
        {
            let mut sources = Sources::new();
            read_dir(workspace, member.join(path).parent().unwrap(), &mut sources);
            tests.extend(sources.into_values());
        }
        let build_script = std::fs::read_to_string(workspace.join(member).join("build.rs"));
        let parts = [
            ("dependencies", Code::Names(names)),
            ("dev-dependencies", Code::Texts(tests)),
            ("build-dependencies", Code::Texts(build_script.into_iter().collect())),
        ];
        Self {
            name: manifest["package"]["name"].as_str().unwrap().to_owned(),
            parts: parts
                .map(|(table, code)| Part {
                    table,
                    declared: declared(&manifest, table),
                    code,
                })
                .into(),
        }
    }

    /// All that the package declares.
    pub fn declared(&self) -> impl Iterator<Item = &String> {
        self.parts.iter().flat_map(|part| &part.declared)
    }

    /// `PACKAGE: DEPENDENCY (TABLE)` for each dependency that is not used.
    pub fn unused(&self) -> Vec<String> {
        let mut unused = Vec::new();
        for part in &self.parts {
            for dependency in &part.declared {
                let name = dependency.replace('-', "_");
                let is_used = match &part.code {
                    Code::Names(names) => names.contains(&name),
                    Code::Texts(texts) => texts.iter().any(|text| names_crate(text, &name)),
                };
                if !is_used {
                    unused.push(format!("{}: {dependency} ({})", self.name, part.table));
                }
            }
        }
        unused
    }
}

/// The dependencies in a table of the workspace's own manifest that no package declares.
pub fn undeclared(workspace: &Path, packages: &[Package]) -> Vec<String> {
    let manifest = read_manifest(workspace);
    let table = manifest["workspace"].as_table().unwrap();
    let all: BTreeSet<&String> = packages.iter().flat_map(Package::declared).collect();
    let names = declared(table, "dependencies");
    names
        .into_iter()
        .filter(|name| !all.contains(name))
        .map(|name| format!("workspace: {name}"))
        .collect()
}

fn declared(manifest: &toml::Table, table: &str) -> BTreeSet<String> {
    let table = manifest.get(table).and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

/// The paths of the targets of one kind that the manifest names.
fn paths(manifest: &toml::Table, kind: &str) -> Vec<PathBuf> {
    let targets = match manifest.get(kind) {
        Some(toml::Value::Array(targets)) => targets.as_slice(),
        Some(target) => std::slice::from_ref(target),
        None => &[],
    };
    let path = |target: &toml::Value| target.get("path").and_then(toml::Value::as_str).map(PathBuf::from);
    targets.iter().filter_map(path).collect()
}

/// The names with which paths begin.
fn crate_names(tree: &ModuleTree) -> BTreeSet<String> {
    let uses = tree
        .modules
        .iter()
        .flat_map(|module| module.uses.iter().map(|import| &import.path));
    // A single name is a variable or an imported item.
    let paths = tree.modules.iter().flat_map(|module| &module.paths);
    let paths = paths.filter(|path| path.len() > 1);
    uses.chain(paths).filter_map(|path| path.first().cloned()).collect()
}

/// Whether a text has `name::` or `use name`.
fn names_crate(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let is_first = !before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':'));
        is_first && (after.starts_with("::") || before.ends_with("use ") && after.starts_with([';', ' ']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unused dependencies of a package with this manifest and these files.
    fn unused(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join("member").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Package::read(dir.path(), Path::new("member")).unused()
    }

    #[test]
    fn a_dependency_is_used_by_the_code_that_its_table_is_for() {
        let manifest = r#"
            package = { name = "p" }
            dependencies = { in-lib = "1", in-program = "1", in-macro = "1", in-unit-tests = "1", in-nothing = "1" }
            dev-dependencies = { in-unit-tests = "1", in-tests = "1", in-nothing = "1" }
            build-dependencies = { in-script = "1", in-lib = "1" }
            test = [{ name = "t", path = "tests/t/main.rs" }]
        "#;
        let found = unused(&[
            ("Cargo.toml", manifest),
            ("src/lib.rs", "mod a; #[cfg(test)] mod tests { use in_unit_tests::T; }"),
            ("src/a.rs", "use in_lib::{A, B}; #[derive(in_macro::Debug)] struct S;"),
            ("src/main.rs", "fn main() { in_program::run() }"),
            ("tests/t/main.rs", "mod other;"),
            (
                "tests/t/other.rs",
                "#[in_tests::test] fn t() { crate::in_nothing::f(); my_in_nothing::f() }",
            ),
            ("build.rs", "use in_script; fn main() {}"),
        ]);
        assert_eq!(
            found,
            [
                "p: in-nothing (dependencies)",
                "p: in-unit-tests (dependencies)",
                "p: in-nothing (dev-dependencies)",
                "p: in-lib (build-dependencies)",
            ]
        );
    }

    #[test]
    fn targets_may_have_other_paths() {
        let manifest = r#"
            package = { name = "p" }
            dependencies = { in-lib = "1", in-program = "1" }
            lib = { path = "lib.rs" }
            bin = [{ name = "b", path = "programs/b.rs" }]
        "#;
        let files = [
            ("Cargo.toml", manifest),
            ("lib.rs", "mod a;"),
            ("a.rs", "use in_lib::A;"),
            ("programs/b.rs", "in_program::main!();"),
        ];
        assert!(unused(&files).is_empty());
    }
}
