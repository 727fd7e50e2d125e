//! Layers of crates, and of groups within a crate: a group is a directory or file directly under a crate's sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::imports::Imports;

/// Every import between groups that does not lead to a lower layer. The crate's root files are above all groups.
pub fn violations(imports: &Imports, sources: &Path, layers: &[&[&str]]) -> Vec<String> {
    let mut violations = Vec::new();
    for (from, to, names) in imports.iter() {
        let (Some(group), Some(imported)) = (group(from, sources), group(to, sources)) else {
            continue;
        };
        if group != imported && layer(layers, &group) >= layer(layers, &imported) {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            violations.push(format!(
                "  {} -> {}: {}",
                from.display(),
                to.display(),
                names.join(", ")
            ));
        }
    }
    violations
}

/// Every dependency between crates that does not lead to a lower layer.
pub fn violations_of_crates(dependencies: &BTreeMap<String, BTreeSet<String>>, layers: &[&[&str]]) -> Vec<String> {
    let edges = dependencies
        .iter()
        .flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)));
    edges
        .filter(|(from, to)| layer(layers, from) >= layer(layers, to))
        .map(|(from, to)| format!("  {from} -> {to}"))
        .collect()
}

fn group(file: &Path, sources: &Path) -> Option<String> {
    let first = file.strip_prefix(sources).ok()?.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

fn layer(layers: &[&[&str]], name: &str) -> usize {
    layers
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("{name} is not in any layer"))
}
