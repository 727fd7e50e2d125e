//! Creates the patch of `apply`.

use std::collections::HashMap;
use std::mem;

use serde_json::Value;

use super::apply::apply;
use super::diff::{Part, difference};
use super::directive::{self, PATCH};
use super::key::{Key, places};
use crate::applied::Applied;
use crate::error::PatchError;
use crate::object::Object;
use crate::schema::{Field, Schema};

/// The strategic merge patch for `apply`, and the object after it: fields and list items that were in the last applied
/// configuration and are no longer in the modified one are removed, and those that differ from the modified one are
/// set. Fields that only the current object has remain.
pub fn three_way(
    last_applied: Option<&Value>,
    modified: &Value,
    current: &Value,
    schema: &Schema,
) -> Result<Applied, PatchError> {
    let nothing = Value::Object(Object::new());
    let changes = difference(current, modified, schema, Part::Changes)?;
    let deletions = difference(last_applied.unwrap_or(&nothing), modified, schema, Part::Deletions)?;
    let patch = Value::Object(combine(deletions, changes, schema.root())?);
    let result = apply(current, &patch, schema)?;
    Ok(Applied { patch, result })
}

/// Combines the deletions of a patch with its changes. Directives in both are equal, because both come from the modified
/// object.
fn combine(mut patch: Object, changes: Object, field: Field<'_>) -> Result<Object, PatchError> {
    let (directives, changes): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(name, _)| name.starts_with('$'));
    patch.extend(directives);
    for (name, change) in changes {
        let inner = field.field(&name);
        let order = patch
            .get(&directive::order_of(&name))
            .and_then(Value::as_array)
            .cloned();
        match (patch.get_mut(&name), change) {
            (Some(Value::Object(old)), Value::Object(change)) if !inner.is_replaced() => {
                *old = combine(mem::take(old), change, inner)?;
            }
            (Some(Value::Array(old)), Value::Array(change)) => match inner.merge_key() {
                Some(merge_key) => *old = combine_items(mem::take(old), change, merge_key, inner, order)?,
                None => *old = change,
            },
            (_, change) => {
                patch.insert(name, change);
            }
        }
    }
    Ok(patch)
}

/// Combines two lists of items of patches. The result has the order of the modified object; deletions follow.
fn combine_items(
    deletions: Vec<Value>,
    changes: Vec<Value>,
    merge_key: &str,
    field: Field<'_>,
    order: Option<Vec<Value>>,
) -> Result<Vec<Value>, PatchError> {
    let key_of = |item: &Value| Key::of_item(item, merge_key, field);
    let order = order.as_ref().unwrap_or(&changes);
    let ranks: Vec<Key> = order.iter().map(key_of).collect::<Result<_, _>>()?;
    let ranks = places(ranks);
    let mut items = deletions;
    let mut index: HashMap<Key, usize> = places(items.iter().map(key_of).collect::<Result<Vec<_>, _>>()?);
    for change in changes {
        let key = key_of(&change)?;
        match (index.get(&key).and_then(|index| items.get_mut(*index)), change) {
            (Some(Value::Object(old)), Value::Object(change)) => *old = combine(mem::take(old), change, field)?,
            (_, change) => {
                index.insert(key, items.len());
                items.push(change);
            }
        }
    }
    let mut ranked = Vec::with_capacity(items.len());
    for item in items {
        let rank = match item.get(PATCH) {
            Some(_) => usize::MAX,
            None => ranks.get(&key_of(&item)?).copied().unwrap_or(usize::MAX),
        };
        ranked.push((rank, item));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(ranked.into_iter().map(|(_, item)| item).collect())
}
