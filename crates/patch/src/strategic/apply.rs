//! Applies strategic merge patches.

use std::collections::HashSet;
use std::mem;

use serde_json::Value;

use super::directive::{self, DELETE, MERGE, PATCH, REPLACE, RETAIN_KEYS};
use super::key::{self, Elements, Key, places};
use super::list;
use crate::bounds;
use crate::error::PatchError;
use crate::go_text;
use crate::limits::Document;
use crate::object::Object;
use crate::schema::{Field, Schema};

/// Applies a strategic merge patch.
pub fn apply(object: &Value, patch: &Value, schema: &Schema) -> Result<Value, PatchError> {
    bounds::check(Document::Object, object)?;
    bounds::check(Document::Patch, patch)?;
    let (Value::Object(object), Value::Object(patch)) = (object, patch) else {
        return Err(PatchError::NotAnObject);
    };
    let result = Value::Object(merge_maps(object.clone(), patch.clone(), schema.root())?);
    bounds::check(Document::Result, &result)?;
    Ok(result)
}

fn merge_maps(mut object: Object, mut patch: Object, field: Field<'_>) -> Result<Object, PatchError> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) if directive == REPLACE => {
            patch.remove(PATCH);
            return Ok(directive::content_of_map(patch));
        }
        Some(Value::String(directive)) if directive == DELETE => return Ok(Object::new()),
        Some(directive) => return Err(directive::unknown(directive, &patch, field)),
    }
    retain_keys(&mut object, &mut patch)?;
    set_element_orders(&mut object, &mut patch, field)?;
    delete_from_primitive_lists(&mut object, &mut patch, field)?;
    for (name, value) in patch {
        let field = field.field(&name);
        match (object.get_mut(&name), value) {
            (_, Value::Null) => {
                object.remove(&name);
            }
            (Some(Value::Object(current)), Value::Object(change)) if field.is_replaced() => *current = change,
            (Some(Value::Object(current)), Value::Object(change)) => {
                *current = merge_maps(mem::take(current), change, field)?;
            }
            (Some(Value::Array(current)), Value::Array(change)) => {
                *current = merge_lists(mem::take(current), change, field)?;
            }
            (_, value) => match directive::content(value) {
                Some(value) => {
                    object.insert(name, value);
                }
                None => {
                    object.remove(&name);
                }
            },
        }
    }
    Ok(object)
}

/// Removes the fields that are not in `$retainKeys`. All fields that the patch sets must be in it.
fn retain_keys(object: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(retained) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let retained = retained.as_array().ok_or(PatchError::BadRetainKeys)?;
    let retained: Option<HashSet<&str>> = retained.iter().map(Value::as_str).collect();
    let retained = retained.ok_or(PatchError::BadRetainKeys)?;
    for (name, value) in &*patch {
        let is_field = directive::ordered_list(name)?.is_none() && directive::deletion_list(name)?.is_none();
        if is_field && !value.is_null() && !retained.contains(name.as_str()) {
            return Err(PatchError::BadRetainKeys);
        }
    }
    object.retain(|name, _| retained.contains(name.as_str()));
    Ok(())
}

/// Merges the lists that have a `$setElementOrder` directive, and takes both out of the patch.
fn set_element_orders(object: &mut Object, patch: &mut Object, field: Field<'_>) -> Result<(), PatchError> {
    let mut directives = Vec::new();
    for directive in patch.keys() {
        if let Some(name) = directive::ordered_list(directive)? {
            directives.push((directive.clone(), name.to_owned()));
        }
    }
    for (directive, name) in directives {
        let Some(order) = take_list(patch, &directive)? else {
            continue;
        };
        let change = take_list(patch, &name)?;
        let current = take_list(object, &name)?;
        let field = field.field(&name);
        check_order(change.as_deref().unwrap_or_default(), &order, field)?;
        let before = keys_of(current.as_deref().unwrap_or_default(), field)?;
        let before = after_deletions(before, change.as_deref().unwrap_or_default(), field)?;
        let merged = match (current, change) {
            (None, None) => continue,
            (Some(current), None) => current,
            (None, Some(change)) => directive::content_of_list(change),
            (Some(current), Some(change)) => merge_lists(current, change, field)?,
        };
        let merged: Vec<_> = keys_of(&merged, field)?.into_iter().zip(merged).collect();
        let merged = list::order(merged, &places(keys_of(&order, field)?), &places(before));
        object.insert(name, Value::Array(merged));
    }
    Ok(())
}

/// Refuses a list whose items have another order than `$setElementOrder`, or are not in it. An empty list has any order.
fn check_order(change: &[Value], order: &[Value], field: Field<'_>) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut ordered = keys_of(order, field)?.into_iter().peekable();
    for item in change {
        let directive = item.get(PATCH);
        if directive.and_then(Value::as_str) == Some(DELETE) {
            continue;
        }
        // As in apimachinery, another directive is allowed only before the last items of the order.
        let found = match (ordered.peek(), directive) {
            (None, _) => false,
            (Some(_), Some(_)) => true,
            (Some(_), None) => {
                let key = key_of(item, field)?;
                ordered.any(|ordered| ordered == key)
            }
        };
        if !found {
            return Err(PatchError::WrongOrder {
                patch: key::shown_list(change, field),
                order: key::shown_list(order, field),
            });
        }
    }
    Ok(())
}

/// The order of a list before a patch, as apimachinery sees it when it sets the order of the patched list: deleted
/// items are gone, and as many new ones are at the end in their place. (apimachinery deletes and adds in the same
/// array.)
fn after_deletions(before: Vec<Key>, change: &[Value], field: Field<'_>) -> Result<Vec<Key>, PatchError> {
    if field.merge_key().is_none() {
        return Ok(before);
    }
    let (mut deleted, mut patched) = (HashSet::new(), Vec::new());
    for item in change {
        match item.get(PATCH).and_then(Value::as_str) {
            Some(DELETE) => {
                deleted.insert(key_of(item, field)?);
            }
            Some(_) => {}
            None => patched.push(key_of(item, field)?),
        }
    }
    let len = before.len();
    let mut order: Vec<Key> = before.into_iter().filter(|key| !deleted.contains(key)).collect();
    let mut known: HashSet<Key> = order.iter().cloned().collect();
    let free = len - order.len();
    order.extend(patched.into_iter().filter(|key| known.insert(key.clone())).take(free));
    Ok(order)
}

/// Removes the values of `$deleteFromPrimitiveList` directives, and takes the directives out of the patch.
fn delete_from_primitive_lists(object: &mut Object, patch: &mut Object, field: Field<'_>) -> Result<(), PatchError> {
    let mut directives = Vec::new();
    for directive in patch.keys() {
        if let Some(name) = directive::deletion_list(directive)? {
            directives.push((directive.clone(), name.to_owned()));
        }
    }
    for (directive, name) in directives {
        match (patch.remove(&directive), object.get_mut(&name)) {
            // Kubernetes does the same.
            (Some(Value::Null), _) => {
                object.remove(&name);
            }
            (Some(Value::Array(deleted)), Some(Value::Array(current))) => {
                if Elements::of(&[current, &deleted], field.field(&name))? == Elements::Maps {
                    return Err(PatchError::BadPrimitiveList);
                }
                let deleted: HashSet<Key> = deleted.iter().filter_map(Key::of).collect();
                current.retain(|value| Key::of(value).is_none_or(|key| !deleted.contains(&key)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn merge_lists(current: Vec<Value>, change: Vec<Value>, field: Field<'_>) -> Result<Vec<Value>, PatchError> {
    let merge_key = field.merge_key();
    if merge_key.is_none() && !field.is_set() {
        return Ok(change);
    }
    match (Elements::of(&[&current, &change], field)?, merge_key) {
        (Elements::None, _) => Ok(current),
        (_, Some(key)) => merge_items(current, change, key, field),
        (Elements::Primitives, None) => {
            let before = places(current.iter().filter_map(Key::of));
            let ranks = places(change.iter().filter_map(Key::of));
            let mut both = current;
            both.extend(change);
            Ok(list::order(list::unique(both), &ranks, &before))
        }
        (Elements::Maps, None) => Err(PatchError::ListWithoutMergeKey),
    }
}

/// Merges the items with the same key, and adds the others.
fn merge_items(
    mut current: Vec<Value>,
    change: Vec<Value>,
    merge_key: &str,
    field: Field<'_>,
) -> Result<Vec<Value>, PatchError> {
    let Special {
        items: change,
        deleted,
        replace,
    } = Special::take(change, merge_key, field)?;
    if replace {
        let change = directive::content_of_list(change);
        keys_of(&change, field)?;
        return Ok(change);
    }
    if !deleted.is_empty() {
        current.retain(|item| {
            let key = item.get(merge_key).and_then(Key::of);
            key.is_none_or(|key| !deleted.contains(&key))
        });
    }
    let before = keys_of(&current, field)?;
    let mut keys = before.clone();
    let before = places(before);
    let mut merged = current;
    let mut index = before.clone();
    let mut ranks = Vec::with_capacity(change.len());
    for item in change {
        let key = Key::of_item(&item, merge_key, field)?;
        ranks.push(key.clone());
        match (index.get(&key).and_then(|index| merged.get_mut(*index)), item) {
            (Some(Value::Object(old)), Value::Object(item)) => *old = merge_maps(mem::take(old), item, field)?,
            (_, item) => {
                index.insert(key.clone(), merged.len());
                keys.push(key);
                merged.extend(directive::content(item));
            }
        }
    }
    let merged = keys.into_iter().zip(merged).collect();
    Ok(list::order(merged, &places(ranks), &before))
}

/// The items of a patch of a list, apart from those with directives.
struct Special {
    items: Vec<Value>,
    deleted: HashSet<Key>,
    replace: bool,
}

impl Special {
    fn take(change: Vec<Value>, merge_key: &str, field: Field<'_>) -> Result<Self, PatchError> {
        let mut special = Self {
            items: Vec::with_capacity(change.len()),
            deleted: HashSet::new(),
            replace: false,
        };
        for item in change {
            let map = key::map(&item)?;
            match map.get(PATCH) {
                None => special.items.push(item),
                Some(Value::String(directive)) if directive == DELETE => {
                    special.deleted.insert(Key::of_map(map, merge_key, field)?);
                }
                Some(Value::String(directive)) if directive == REPLACE => special.replace = true,
                Some(Value::String(directive)) if directive == MERGE => return Err(PatchError::MergeDirective),
                Some(directive) => return Err(directive::unknown(directive, map, field)),
            }
        }
        Ok(special)
    }
}

/// The keys of all elements: the merge keys of maps, or the primitive values themselves.
fn keys_of(elements: &[Value], field: Field<'_>) -> Result<Vec<Key>, PatchError> {
    elements.iter().map(|element| key_of(element, field)).collect()
}

fn key_of(element: &Value, field: Field<'_>) -> Result<Key, PatchError> {
    match field.merge_key() {
        Some(merge_key) => Key::of_item(element, merge_key, field),
        None => Key::of(element).ok_or(PatchError::BadSetElementOrder),
    }
}

/// Takes a list out of a map, if the field exists.
fn take_list(map: &mut Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match map.remove(name) {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => Err(PatchError::WrongType {
            expected: "[]interface {}",
            received: go_text::type_name(&other),
        }),
    }
}
