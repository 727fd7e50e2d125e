//! Files and crates that only one group may use.

use std::path::Path;

use crate::imports::Imports;
use crate::workspace::Sources;

/// Every import from a file under `reserved` by a file that is neither under `owner` nor in the same group as the
/// imported file. Errors may be imported anywhere, because they do nothing.
pub fn violations(imports: &Imports, sources: &Path, owner: &Path, reserved: &[&Path]) -> Vec<String> {
    let group = |file: &Path| {
        file.strip_prefix(sources)
            .ok()?
            .iter()
            .next()
            .map(|name| name.to_owned())
    };
    let mut violations = Vec::new();
    for (from, to, names) in imports.iter() {
        let is_reserved = reserved.iter().any(|file| to.starts_with(file));
        if !is_reserved || from.starts_with(owner) || group(from) == group(to) {
            continue;
        }
        let names: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !name.ends_with("Error"))
            .collect();
        if !names.is_empty() {
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

/// Every file under `within`, but not under `owner`, that refers to one of the crates.
pub fn crate_violations(sources: &Sources, within: &Path, owner: &Path, crates: &[&str]) -> Vec<String> {
    let files = sources
        .iter()
        .filter(|(file, _)| file.starts_with(within) && !file.starts_with(owner));
    let named = files.flat_map(|(file, text)| {
        let names = crates.iter().filter(|name| text.contains(&format!("{name}::")));
        names.map(|name| format!("  {}: {name}", file.display()))
    });
    named.collect()
}
