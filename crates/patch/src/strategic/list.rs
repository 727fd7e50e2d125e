//! Merges and orders lists.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::key::Key;

/// An element, and its place in the list before the patch if it was there.
pub(super) type Placed = (Option<usize>, Value);

/// Merges two ordered lists and keeps the order within each. An element of `old` comes before one of `new` only if both
/// were in the list before the patch, in this order.
pub(super) fn interleave(old: Vec<Placed>, new: Vec<Placed>) -> Vec<Value> {
    let mut result = Vec::with_capacity(old.len() + new.len());
    let mut old = old.into_iter().peekable();
    for (place, value) in new {
        while let Some((_, earlier)) =
            old.next_if(|(old, _)| matches!((old, place), (Some(old), Some(place)) if *old < place))
        {
            result.push(earlier);
        }
        result.push(value);
    }
    result.extend(old.map(|(_, value)| value));
    result
}

/// Gives the elements the order of a patch: `ranks` has the elements of the patch, `before` the list before it. Each
/// element comes with its key.
pub(super) fn order(
    elements: Vec<(Key, Value)>,
    ranks: &HashMap<Key, usize>,
    before: &HashMap<Key, usize>,
) -> Vec<Value> {
    let mut old = Vec::new();
    let mut new = Vec::new();
    for (key, value) in elements {
        let placed = (before.get(&key).copied(), value);
        match ranks.get(&key) {
            Some(rank) => new.push((*rank, placed)),
            None => old.push(placed),
        }
    }
    new.sort_by_key(|(rank, _)| *rank);
    // `None` is greater than all places here: elements that were not there before stay behind the others.
    old.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    interleave(old, new.into_iter().map(|(_, placed)| placed).collect())
}

/// The elements of a list of primitive values, each once.
pub(super) fn unique(elements: Vec<Value>) -> Vec<(Key, Value)> {
    let mut seen = HashSet::new();
    elements
        .into_iter()
        .filter_map(|value| Some((Key::of(&value)?, value)))
        .filter(|(key, _)| seen.insert(key.clone()))
        .collect()
}
