//! Layers of groups: a group is a folder or a file directly under a crate's sources.

use std::path::Path;

use crate::imports::Imports;

/// Every import between groups that does not lead to a lower layer. The crate's root files stand above all.
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

fn group(file: &Path, sources: &Path) -> Option<String> {
    let first = file.strip_prefix(sources).ok()?.iter().next()?.to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(name, "lib" | "main")).then(|| name.to_owned())
}

fn layer(layers: &[&[&str]], group: &str) -> usize {
    layers
        .iter()
        .position(|layer| layer.contains(&group))
        .unwrap_or_else(|| panic!("{group} stands in no layer"))
}
