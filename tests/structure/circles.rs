//! Import circles: strongly connected components of the import graph.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use crate::imports::Imports;

type Graph<'a> = BTreeMap<&'a Path, Vec<&'a Path>>;

/// Every circle, with the imports that tie each of its files to the others.
pub fn find(imports: &Imports) -> Vec<String> {
    let (mut forward, mut backward) = (Graph::new(), Graph::new());
    for (from, to, _) in imports.iter() {
        forward.entry(from).or_default().push(to);
        backward.entry(to).or_default().push(from);
    }
    let mut circles = Vec::new();
    let mut left: BTreeSet<&Path> = forward.keys().copied().collect();
    while let Some(file) = left.pop_first() {
        let leads_back = reached(&backward, file);
        let circle: BTreeSet<&Path> = reached(&forward, file).intersection(&leads_back).copied().collect();
        left.retain(|file| !circle.contains(file));
        if circle.len() > 1 {
            circles.push(description(imports, &circle));
        }
    }
    circles
}

/// `start` and all files reachable from it.
fn reached<'a>(graph: &Graph<'a>, start: &'a Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::from([start]);
    let mut next = vec![start];
    while let Some(file) = next.pop() {
        next.extend(
            graph
                .get(file)
                .into_iter()
                .flatten()
                .filter(|file| reached.insert(file)),
        );
    }
    reached
}

fn description(imports: &Imports, circle: &BTreeSet<&Path>) -> String {
    let mut text = format!("a circle of {} files:\n", circle.len());
    for (from, to, names) in imports
        .iter()
        .filter(|(from, to, _)| circle.contains(from) && circle.contains(to))
    {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        writeln!(text, "  {} -> {}: {}", from.display(), to.display(), names.join(", ")).unwrap();
    }
    text
}
