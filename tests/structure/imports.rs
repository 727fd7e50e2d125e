//! Which files of a crate import which names from which other files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::module_tree::{ModuleId, ModuleTree, ROOT, Use};
use crate::workspace::Sources;

/// The imported names, by importing file and defining file.
#[derive(Debug, Default)]
pub struct Imports(BTreeMap<PathBuf, BTreeMap<PathBuf, BTreeSet<String>>>);

impl Imports {
    /// The imports within the crate whose root file is `root`.
    ///
    /// Modules on the path to an item do not count as imported, and neither do children's items that a parent
    /// re-exports.
    pub fn of_crate(sources: &Sources, root: &Path) -> Self {
        let tree = ModuleTree::read(sources, root);
        let mut imports = Self::default();
        for (id, module) in tree.modules.iter().enumerate() {
            for import in &module.uses {
                if let Some(Target::Item(definer, name)) = resolve(&tree, id, &import.path)
                    && !(import.is_reexport && tree.is_within(definer, id))
                {
                    imports.add(&tree, id, definer, name);
                }
            }
            for path in &module.paths {
                if let Some(Target::Item(definer, name)) = resolve(&tree, id, path) {
                    imports.add(&tree, id, definer, name);
                }
            }
        }
        imports
    }

    /// Every pair of files, with the names that the first imports from the second.
    pub fn iter(&self) -> impl Iterator<Item = (&Path, &Path, &BTreeSet<String>)> {
        self.0
            .iter()
            .flat_map(|(from, targets)| targets.iter().map(|(to, names)| (from.as_path(), to.as_path(), names)))
    }

    fn add(&mut self, tree: &ModuleTree, from: ModuleId, to: ModuleId, name: String) {
        let (from, to) = (&tree.modules[from].file, &tree.modules[to].file);
        if from != to {
            self.0
                .entry(from.clone())
                .or_default()
                .entry(to.clone())
                .or_default()
                .insert(name);
        }
    }
}

/// The target of a path in its own crate.
#[derive(Debug)]
enum Target {
    Module(ModuleId),
    Item(ModuleId, String),
}

fn resolve(tree: &ModuleTree, from: ModuleId, path: &[String]) -> Option<Target> {
    Resolver {
        tree,
        asked: BTreeSet::new(),
    }
    .resolve(from, path)
}

struct Resolver<'a> {
    tree: &'a ModuleTree,
    /// Lookups already made: imports may form a circle.
    asked: BTreeSet<(ModuleId, String, bool)>,
}

impl Resolver<'_> {
    fn resolve(&mut self, from: ModuleId, path: &[String]) -> Option<Target> {
        let mut module = from;
        for (index, segment) in path.iter().enumerate() {
            let is_last = index + 1 == path.len();
            module = match segment.as_str() {
                "crate" => ROOT,
                "self" => module,
                "super" => self.tree.modules[module].parent?,
                name => match self.look_up(module, name, is_last)? {
                    Target::Module(child) => child,
                    item => return Some(item),
                },
            };
        }
        Some(Target::Module(module))
    }

    /// Finds the meaning of `name` in a module. If a module and an item share the name, the module wins unless the name
    /// ends the path.
    fn look_up(&mut self, module: ModuleId, name: &str, is_last: bool) -> Option<Target> {
        if !self.asked.insert((module, name.to_owned(), is_last)) {
            return None;
        }
        let tree = self.tree;
        let here = &tree.modules[module];
        let child = here.children.get(name).map(|id| Target::Module(*id));
        let item = here.items.contains(name).then(|| Target::Item(module, name.to_owned()));
        let found = if is_last { item.or(child) } else { child.or(item) };
        found
            .or_else(|| self.imported(module, name))
            .or_else(|| self.imported_by_glob(module, name, is_last))
    }

    fn imported(&mut self, module: ModuleId, name: &str) -> Option<Target> {
        let named = |import: &&Use| import.name.as_deref() == Some(name);
        self.tree.modules[module]
            .uses
            .iter()
            .filter(named)
            .find_map(|import| self.resolve(module, &import.path))
    }

    fn imported_by_glob(&mut self, module: ModuleId, name: &str, is_last: bool) -> Option<Target> {
        let globs = self.tree.modules[module].uses.iter().filter(|import| import.is_glob);
        globs
            .into_iter()
            .find_map(|import| match self.resolve(module, &import.path)? {
                Target::Module(all_of) if all_of != module => self.look_up(all_of, name, is_last),
                _ => None,
            })
    }
}
