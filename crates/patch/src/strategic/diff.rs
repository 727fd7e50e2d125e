//! Creates a patch from two versions of an object.

use std::cmp::Ordering;

use serde_json::Value;

use super::directive::{self, DELETE, PATCH, RETAIN_KEYS};
use super::key::{Elements, Key, map, places};
use crate::bounds;
use crate::error::PatchError;
use crate::go_text;
use crate::limits::Document;
use crate::object::Object;
use crate::schema::{Field, Schema};

/// The strategic merge patch that turns `original` into `modified`.
pub fn diff(original: &Value, modified: &Value, schema: &Schema) -> Result<Value, PatchError> {
    difference(original, modified, schema, Part::All).map(Value::Object)
}

/// Which differences a patch contains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    All,
    /// Values that are new or different in the modified object.
    Changes,
    /// Values that only the original object has.
    Deletions,
}

impl Part {
    fn has_changes(self) -> bool {
        self != Self::Deletions
    }

    fn has_deletions(self) -> bool {
        self != Self::Changes
    }
}

pub(super) fn difference(
    original: &Value,
    modified: &Value,
    schema: &Schema,
    part: Part,
) -> Result<Object, PatchError> {
    bounds::check(Document::Object, original)?;
    bounds::check(Document::Object, modified)?;
    let (Value::Object(original), Value::Object(modified)) = (original, modified) else {
        return Err(PatchError::NotAnObject);
    };
    maps(original, modified, schema.root(), part)
}

fn maps(original: &Object, modified: &Object, field: Field<'_>, part: Part) -> Result<Object, PatchError> {
    let mut patch = Object::new();
    for (name, new) in modified {
        let inner = field.field(name);
        match (original.get(name), new) {
            (Some(Value::Object(old)), Value::Object(new)) if !inner.is_replaced() => {
                let inner = maps(old, new, inner, part)?;
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(Value::Array(old)), Value::Array(new)) if inner.is_set() || inner.merge_key().is_some() => {
                let (changes, deletions, order) = lists(old, new, inner, part)?;
                for (name, list) in [
                    (name.clone(), changes),
                    (directive::deletions_from(name), deletions),
                    (directive::order_of(name), order),
                ] {
                    if !list.is_empty() {
                        patch.insert(name, Value::Array(list));
                    }
                }
            }
            (Some(old), new) if old == new => {}
            _ if part.has_changes() => {
                patch.insert(name.clone(), new.clone());
            }
            _ => {}
        }
    }
    let missing = |name: &str| !modified.contains_key(name);
    if part.has_deletions() {
        for name in original.keys().filter(|name| missing(name)) {
            patch.insert(name.clone(), Value::Null);
        }
    }
    if field.retains_keys() {
        let mut retained: Vec<&String> = modified
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, _)| name)
            .collect();
        retained.sort_unstable();
        let has_more = original.iter().any(|(name, value)| !value.is_null() && missing(name));
        if !retained.is_empty() && (!patch.is_empty() || has_more) {
            patch.insert(RETAIN_KEYS.to_owned(), retained.into_iter().cloned().collect());
        }
    }
    Ok(patch)
}

/// Lists of a patch: changes, deletions of primitive values, and the order.
type Lists = (Vec<Value>, Vec<Value>, Vec<Value>);

fn lists(original: &[Value], modified: &[Value], field: Field<'_>, part: Part) -> Result<Lists, PatchError> {
    if original.is_empty() {
        let added = if part.has_changes() { modified } else { &[] };
        return Ok((added.to_vec(), Vec::new(), Vec::new()));
    }
    match Elements::of(&[original, modified], field)? {
        Elements::Maps => {
            // No map contains the empty key of a list of primitive values.
            let merge_key = field.merge_key().unwrap_or_default();
            items(original, modified, merge_key, field, part)
        }
        Elements::Primitives => Ok(primitives(original, modified, part)),
        Elements::None => Ok(Lists::default()),
    }
}

fn items(
    original: &[Value],
    modified: &[Value],
    merge_key: &str,
    field: Field<'_>,
    part: Part,
) -> Result<Lists, PatchError> {
    let old = Item::sorted(original, merge_key, field)?;
    let new = Item::sorted(modified, merge_key, field)?;
    let same_order = original.len() == modified.len()
        && (original.iter().zip(modified)).all(|(old, new)| old.get(merge_key) == new.get(merge_key));
    let mut changes = Vec::new();
    let mut deletions = Vec::new();
    for pair in pairs(&old, &new, |item| &item.text) {
        match pair {
            Pair::Both(old, new) => {
                let mut change = maps(old.map, new.map, field, part)?;
                if !change.is_empty() {
                    change.insert(merge_key.to_owned(), new.key.clone());
                    changes.push((new.place, Value::Object(change)));
                }
            }
            Pair::New(new) if part.has_changes() => changes.push((new.place, Value::Object(new.map.clone()))),
            Pair::Old(old) if part.has_deletions() => {
                let mut deletion = Object::new();
                deletion.insert(merge_key.to_owned(), old.key.clone());
                deletion.insert(PATCH.to_owned(), Value::from(DELETE));
                deletions.push(Value::Object(deletion));
            }
            Pair::New(_) | Pair::Old(_) => {}
        }
    }
    changes.sort_by_key(|(place, _)| *place);
    let mut changes: Vec<Value> = changes.into_iter().map(|(_, change)| change).collect();
    changes.extend(deletions);
    let mut order = Vec::new();
    if !changes.is_empty() || (part.has_changes() && !same_order) {
        for item in modified {
            let key = item.get(merge_key).cloned().unwrap_or_default();
            order.push(Value::Object(Object::from_iter([(merge_key.to_owned(), key)])));
        }
    }
    Ok((changes, Vec::new(), order))
}

fn primitives(original: &[Value], modified: &[Value], part: Part) -> Lists {
    let sorted = |list: &[Value]| {
        let mut sorted: Vec<(String, Value)> = list
            .iter()
            .map(|value| (go_text::scalar(value), value.clone()))
            .collect();
        sorted.sort_by(|(first, _), (second, _)| first.cmp(second));
        sorted
    };
    let (old, new) = (sorted(original), sorted(modified));
    let mut changes = Vec::new();
    let mut deletions = Vec::new();
    for pair in pairs(&old, &new, |(text, _)| text) {
        match pair {
            Pair::New((_, value)) if part.has_changes() => changes.push(value.clone()),
            Pair::Old((_, value)) if part.has_deletions() => deletions.push(value.clone()),
            _ => {}
        }
    }
    deletions.dedup();
    let ranks = places(modified.iter().filter_map(Key::of));
    changes.sort_by_key(|value| Key::of(value).and_then(|key| ranks.get(&key).copied()));
    let differs = match part {
        Part::Deletions => !deletions.is_empty(),
        Part::All | Part::Changes => original != modified,
    };
    let order = if differs { modified.to_vec() } else { Vec::new() };
    (changes, deletions, order)
}

/// An item of a list of maps.
#[derive(Debug)]
struct Item<'v> {
    map: &'v Object,
    key: &'v Value,
    /// The key as text: generated patches are in its order.
    text: String,
    place: usize,
}

impl<'v> Item<'v> {
    fn sorted(list: &'v [Value], merge_key: &str, field: Field<'_>) -> Result<Vec<Self>, PatchError> {
        let mut items = Vec::with_capacity(list.len());
        for (place, item) in list.iter().enumerate() {
            let map = map(item)?;
            Key::of_map(map, merge_key, field)?;
            let key = map.get(merge_key).unwrap_or(&Value::Null);
            items.push(Self {
                map,
                key,
                text: go_text::scalar(key),
                place,
            });
        }
        items.sort_by(|first, second| first.text.cmp(&second.text));
        Ok(items)
    }
}

/// Elements of two sorted lists.
enum Pair<'e, T> {
    Both(&'e T, &'e T),
    Old(&'e T),
    New(&'e T),
}

/// Compares two lists that are sorted by a text.
fn pairs<'e, T>(old: &'e [T], new: &'e [T], text: impl Fn(&T) -> &String) -> Vec<Pair<'e, T>> {
    let mut pairs = Vec::with_capacity(old.len().max(new.len()));
    let mut old = old.iter().peekable();
    let mut new = new.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (Some(old), Some(new)) => text(old).cmp(text(new)),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return pairs,
        };
        match order {
            Ordering::Less => pairs.extend(old.next().map(Pair::Old)),
            Ordering::Greater => pairs.extend(new.next().map(Pair::New)),
            Ordering::Equal => pairs.extend(old.next().zip(new.next()).map(|(old, new)| Pair::Both(old, new))),
        }
    }
}
