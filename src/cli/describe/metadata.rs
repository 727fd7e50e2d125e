//! Labels and annotations, as they are on every page.

use std::collections::BTreeMap;

use super::page::Page;

/// Longest line of an annotation.
const MAX_ANNOTATION: usize = 140;
/// The annotation with the last applied configuration.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The labels, or other texts by name.
pub(super) fn labels(page: &mut Page, title: &str, labels: Option<&BTreeMap<String, String>>) {
    let lines: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    page.list(0, title, &lines);
}

/// The annotations, except the one of `apply`: it repeats the object, and may contain a Secret's data.
pub(super) fn annotations(page: &mut Page, annotations: Option<&BTreeMap<String, String>>) {
    let mut lines = Vec::new();
    let shown = annotations
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != LAST_APPLIED);
    for (key, value) in shown {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 > MAX_ANNOTATION || value.contains('\n') {
            lines.push(format!("{key}:"));
            lines.extend(
                value
                    .split('\n')
                    .map(|line| format!("  {}", shortened(line, MAX_ANNOTATION - 2))),
            );
        } else {
            lines.push(format!("{key}: {value}"));
        }
    }
    page.list(0, "Annotations", &lines);
}

fn shortened(line: &str, length: usize) -> String {
    if line.chars().count() <= length {
        return line.to_owned();
    }
    line.chars().take(length).chain("...".chars()).collect()
}
