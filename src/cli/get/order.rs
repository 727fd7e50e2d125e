//! `--sort-by`: the order of objects by a field.

use serde_json::Value;

use super::super::jsonpath::{self, Template};

/// Sorts by the first value that a path finds. Objects without one come first. Returns whether any has one.
pub(super) fn sort(objects: &mut Vec<Value>, path: &Template) -> anyhow::Result<bool> {
    let mut keyed = Vec::with_capacity(objects.len());
    for object in objects.drain(..) {
        let key: Option<Value> = path.find(&object)?.into_iter().next().cloned();
        keyed.push((key, object));
    }
    keyed.sort_by(|(left, _), (right, _)| match (left, right) {
        (Some(left), Some(right)) => jsonpath::order(left, right).unwrap_or(std::cmp::Ordering::Equal),
        (left, right) => left.is_some().cmp(&right.is_some()),
    });
    let is_found = keyed.iter().any(|(key, _)| key.is_some());
    objects.extend(keyed.into_iter().map(|(_, object)| object));
    Ok(is_found)
}
