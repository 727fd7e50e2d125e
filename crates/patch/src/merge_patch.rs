//! JSON merge patch (RFC 7386): applies and creates patches, including the three-way patch for kinds without a schema.
//!
//! As in the RFC, lists are replaced as they are. The API server also removes the `null` fields of maps in new lists, which
//! makes no difference to its types.

use serde_json::Value;

use super::applied::Applied;
use super::bounds;
use super::error::PatchError;
use super::identity::check_identity;
use super::limits::Document;
use super::object::Object;

/// Refuses a merge patch that would replace the whole object, as the API server does; RFC 7386 allows it.
pub fn check_is_map(patch: &Value) -> Result<(), PatchError> {
    let received = match patch {
        Value::Object(_) => return Ok(()),
        Value::Null => return Err(PatchError::NullMergePatch),
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
    };
    Err(PatchError::MergePatchNotAMap { received })
}

/// Applies a merge patch: maps are merged, `null` removes, everything else replaces.
pub fn apply(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    bounds::check(Document::Object, object)?;
    bounds::check(Document::Patch, patch)?;
    let mut result = object.clone();
    merge(&mut result, patch.clone());
    bounds::check(Document::Result, &result)?;
    Ok(result)
}

/// The merge patch that turns one object into another. A `null` in a map of `modified` becomes the removal of its field,
/// because a merge patch cannot express it.
pub fn diff(original: &Value, modified: &Value) -> Result<Value, PatchError> {
    let (original, modified) = objects(original, modified)?;
    Ok(Value::Object(difference(original, modified)))
}

/// The merge patch for `apply`, and the object after it: fields that were in the last applied configuration and are no
/// longer in the modified one are removed, and fields that differ from the modified one are set. Fields that only the
/// current object has remain.
pub fn three_way(last_applied: Option<&Value>, modified: &Value, current: &Value) -> Result<Applied, PatchError> {
    let nothing = Value::Object(Object::new());
    let last_applied = last_applied.unwrap_or(&nothing);
    let (current_fields, modified_fields) = objects(current, modified)?;
    let changes = only_changes(difference(current_fields, modified_fields));
    let (last_fields, modified_fields) = objects(last_applied, modified)?;
    let mut patch = Value::Object(only_removals(difference(last_fields, modified_fields)));
    // Removed fields are not in `modified`, and changed fields are, so the two patches have no common values.
    merge(&mut patch, Value::Object(changes));
    check_identity(&patch)?;
    let result = apply(current, &patch)?;
    Ok(Applied { patch, result })
}

/// RFC 7386 section 2.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Object::new());
    }
    let Value::Object(target) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(&name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

fn difference(original: &Object, modified: &Object) -> Object {
    let mut patch = Object::new();
    for (name, new) in modified {
        match (original.get(name), new) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let inner = difference(old, new);
                if !inner.is_empty() {
                    patch.insert(name.clone(), Value::Object(inner));
                }
            }
            (Some(old), new) if old == new => {}
            _ => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
    for name in original.keys().filter(|name| !modified.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

/// A patch without its removals.
fn only_changes(patch: Object) -> Object {
    let mut changes = Object::new();
    for (name, value) in patch {
        match value {
            Value::Null => {}
            // An empty map is a value, not an empty patch.
            Value::Object(inner) if !inner.is_empty() => {
                let inner = only_changes(inner);
                if !inner.is_empty() {
                    changes.insert(name, Value::Object(inner));
                }
            }
            value => {
                changes.insert(name, value);
            }
        }
    }
    changes
}

/// The removals of a patch.
fn only_removals(patch: Object) -> Object {
    let mut removals = Object::new();
    for (name, value) in patch {
        match value {
            Value::Null => {
                removals.insert(name, Value::Null);
            }
            Value::Object(inner) => {
                let inner = only_removals(inner);
                if !inner.is_empty() {
                    removals.insert(name, Value::Object(inner));
                }
            }
            _ => {}
        }
    }
    removals
}

/// Two objects within the limits.
fn objects<'v>(first: &'v Value, second: &'v Value) -> Result<(&'v Object, &'v Object), PatchError> {
    bounds::check(Document::Object, first)?;
    bounds::check(Document::Object, second)?;
    match (first, second) {
        (Value::Object(first), Value::Object(second)) => Ok((first, second)),
        _ => Err(PatchError::NotAnObject),
    }
}
