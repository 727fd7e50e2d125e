//! A crate's modules as declared in its files, without tests: what each defines, imports and refers to.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use syn::buffer::TokenBuffer;
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, Meta, MetaList, UseTree, Visibility};

use crate::paths;
use crate::workspace::Sources;

/// Index of a module in [`ModuleTree::modules`].
pub type ModuleId = usize;

pub const ROOT: ModuleId = 0;

#[derive(Debug, Default)]
pub struct ModuleTree {
    pub modules: Vec<Module>,
}

#[derive(Debug, Default)]
pub struct Module {
    pub file: PathBuf,
    pub parent: Option<ModuleId>,
    pub children: HashMap<String, ModuleId>,
    /// The names of the items defined in the module.
    pub items: HashSet<String>,
    pub uses: Vec<Use>,
    /// Paths in code, types and the arguments of macros and attributes.
    pub paths: Vec<Vec<String>>,
}

/// One name of a `use` declaration, or a glob.
#[derive(Debug)]
pub struct Use {
    pub path: Vec<String>,
    /// The name in this module; `None` for `*` and `as _`.
    pub name: Option<String>,
    pub is_glob: bool,
    /// `pub use`, with any visibility.
    pub is_reexport: bool,
}

impl ModuleTree {
    /// The modules of the crate whose root file is `root`.
    pub fn read(sources: &Sources, root: &Path) -> Self {
        let mut tree = Self::default();
        let dir = root.parent().unwrap();
        tree.add_file(sources, root, dir, None);
        tree
    }

    /// Whether `module` is inside `ancestor`, at any depth.
    pub fn is_within(&self, module: ModuleId, ancestor: ModuleId) -> bool {
        let mut parents = std::iter::successors(self.modules[module].parent, |id| self.modules[*id].parent);
        parents.any(|id| id == ancestor)
    }

    fn add_file(&mut self, sources: &Sources, file: &Path, dir: &Path, parent: Option<ModuleId>) -> ModuleId {
        let text = sources
            .get(file)
            .unwrap_or_else(|| panic!("{} is declared but missing", file.display()));
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.add_module(sources, file, dir, parent, &parsed.items)
    }

    /// Adds a module with its children, whose files are in `dir`.
    fn add_module(
        &mut self,
        sources: &Sources,
        file: &Path,
        dir: &Path,
        parent: Option<ModuleId>,
        items: &[Item],
    ) -> ModuleId {
        let id = self.modules.len();
        self.modules.push(Module {
            file: file.to_owned(),
            parent,
            ..Module::default()
        });
        let mut reader = ItemReader::default();
        for item in items {
            reader.visit_item(item);
        }
        self.modules[id].items = items
            .iter()
            .filter(|item| !is_test_only(attributes(item)))
            .filter_map(item_name)
            .collect();
        self.modules[id].uses = reader.uses;
        self.modules[id].paths = reader.paths;
        for module in reader.modules {
            let name = module.ident.unraw().to_string();
            let dir_of_child = dir.join(&name);
            let child = match &module.content {
                Some((_, items)) => self.add_module(sources, file, &dir_of_child, Some(id), items),
                None => {
                    assert!(
                        !module.attrs.iter().any(|attribute| attribute.path().is_ident("path")),
                        "mod {name}: #[path] is not read here"
                    );
                    let beside = dir.join(format!("{name}.rs"));
                    let file = if sources.contains_key(&beside) {
                        beside
                    } else {
                        dir_of_child.join("mod.rs")
                    };
                    self.add_file(sources, &file, &dir_of_child, Some(id))
                }
            };
            self.modules[id].children.insert(name, child);
        }
        id
    }
}

/// Collects what the items of a module import and refer to.
#[derive(Default)]
struct ItemReader<'ast> {
    uses: Vec<Use>,
    paths: Vec<Vec<String>>,
    /// Declared directly in this module.
    modules: Vec<&'ast ItemMod>,
}

impl<'ast> Visit<'ast> for ItemReader<'ast> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test_only(attributes(item)) {
            return;
        }
        match item {
            Item::Mod(module) => self.modules.push(module),
            item => visit::visit_item(self, item),
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if item.leading_colon.is_none() {
            let is_reexport = !matches!(item.vis, Visibility::Inherited);
            collect_uses(&item.tree, &mut Vec::new(), is_reexport, &mut self.uses);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            self.paths.push(
                path.segments
                    .iter()
                    .map(|segment| segment.ident.unraw().to_string())
                    .collect(),
            );
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invocation: &'ast Macro) {
        self.paths
            .extend(paths::in_tokens(&TokenBuffer::new2(invocation.tokens.clone())));
        visit::visit_macro(self, invocation);
    }

    /// Single words are mostly the attribute's own; any others are imported.
    fn visit_meta_list(&mut self, list: &'ast MetaList) {
        self.paths.extend(
            paths::in_tokens(&TokenBuffer::new2(list.tokens.clone()))
                .into_iter()
                .filter(|path| path.len() > 1),
        );
    }
}

fn collect_uses(tree: &UseTree, prefix: &mut Vec<String>, is_reexport: bool, uses: &mut Vec<Use>) {
    match tree {
        UseTree::Path(path) => {
            prefix.push(path.ident.unraw().to_string());
            collect_uses(&path.tree, prefix, is_reexport, uses);
            prefix.pop();
        }
        UseTree::Name(name) => {
            let ident = name.ident.unraw().to_string();
            let mut path = prefix.clone();
            if ident != "self" {
                path.push(ident);
            }
            let name = path.last().cloned();
            uses.push(Use {
                path,
                name,
                is_glob: false,
                is_reexport,
            });
        }
        UseTree::Rename(rename) => {
            let ident = rename.ident.unraw().to_string();
            let mut path = prefix.clone();
            if ident != "self" {
                path.push(ident);
            }
            let name = Some(rename.rename.unraw().to_string()).filter(|name| name != "_");
            uses.push(Use {
                path,
                name,
                is_glob: false,
                is_reexport,
            });
        }
        UseTree::Glob(_) => uses.push(Use {
            path: prefix.clone(),
            name: None,
            is_glob: true,
            is_reexport,
        }),
        UseTree::Group(group) => {
            for tree in &group.items {
                collect_uses(tree, prefix, is_reexport, uses);
            }
        }
    }
}

fn item_name(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::TraitAlias(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.unraw().to_string())
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Whether an item is only compiled for tests.
fn is_test_only(attributes: &[Attribute]) -> bool {
    let conditions = attributes.iter().filter(|attribute| attribute.path().is_ident("cfg"));
    conditions
        .filter_map(|attribute| attribute.parse_args::<Meta>().ok())
        .any(|condition| without_tests(&condition) == Some(false))
}

/// The value of a `cfg` condition outside tests, if it is certain.
fn without_tests(condition: &Meta) -> Option<bool> {
    let Meta::List(list) = condition else {
        return condition.path().is_ident("test").then_some(false);
    };
    let parts = list
        .parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated)
        .ok()?;
    let mut parts = parts.iter().map(without_tests);
    if list.path.is_ident("not") {
        parts.next()?.map(|holds| !holds)
    } else if list.path.is_ident("all") {
        parts.any(|holds| holds == Some(false)).then_some(false)
    } else if list.path.is_ident("any") {
        parts.all(|holds| holds == Some(false)).then_some(false)
    } else {
        None
    }
}
