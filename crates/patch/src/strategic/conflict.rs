//! Finds out whether the patch of `apply` would overwrite what others have changed: apimachinery's
//! `MergingMapsHaveConflicts`.

use std::collections::HashMap;

use serde_json::Value;

use super::diff::{Part, difference};
use super::directive::{self, PATCH, RETAIN_KEYS};
use super::key::Key;
use crate::error::PatchError;
use crate::go_text;
use crate::object::Object;
use crate::schema::{Field, Schema};

/// The changes from the last applied configuration to the current object, as a patch without the order of lists, if they
/// conflict with the patch that [`three_way`](super::three_way()) has made: if a field in both has different values.
pub fn conflict(
    last_applied: Option<&Value>,
    current: &Value,
    patch: &Value,
    schema: &Schema,
) -> Result<Option<Value>, PatchError> {
    let nothing = Value::Object(Object::new());
    let changes = difference(last_applied.unwrap_or(&nothing), current, schema, Part::All)?;
    let changes = without_orders(changes);
    let patch = patch.as_object().ok_or(PatchError::NotAnObject)?;
    let has_conflict = maps(patch, &changes, schema.root())?;
    Ok(has_conflict.then_some(Value::Object(changes)))
}

/// A patch without the directives that kubectl does not compare.
fn without_orders(patch: Object) -> Object {
    let is_kept = |name: &String| name != RETAIN_KEYS && !name.starts_with(&directive::order_of(""));
    let kept = patch.into_iter().filter(|(name, _)| is_kept(name));
    kept.map(|(name, value)| (name, without_orders_in(value))).collect()
}

fn without_orders_in(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(without_orders(map)),
        Value::Array(list) => list.into_iter().map(without_orders_in).collect(),
        scalar => scalar,
    }
}

/// Compares the fields that are in both maps.
fn maps(left: &Object, right: &Object, field: Field<'_>) -> Result<bool, PatchError> {
    for (name, left) in left.iter().filter(|(name, _)| *name != PATCH && *name != RETAIN_KEYS) {
        if let Some(right) = right.get(name)
            && values(left, right, field.field(name))?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn values(left: &Value, right: &Value, field: Field<'_>) -> Result<bool, PatchError> {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) if field.is_replaced() => Ok(have_other_directives(left, right)),
        (Value::Array(left), Value::Array(right)) => lists(left, right, field),
        _ => elements(left, right, field),
    }
}

/// Compares values in lists, or values that are no lists. `field` has the fields of maps.
fn elements(left: &Value, right: &Value, field: Field<'_>) -> Result<bool, PatchError> {
    match (left, right) {
        (Value::Object(left), Value::Object(right)) => {
            Ok(have_other_directives(left, right) || maps(left, right, field)?)
        }
        _ => Ok(left != right),
    }
}

/// A directive concerns the map as a whole.
fn have_other_directives(left: &Object, right: &Object) -> bool {
    left.get(PATCH) != right.get(PATCH)
}

fn lists(left: &[Value], right: &[Value], field: Field<'_>) -> Result<bool, PatchError> {
    if field.is_set() {
        // Both add their values.
        return Ok(false);
    }
    if let Some(merge_key) = field.merge_key() {
        let keyed = |item| Ok((Key::of_item(item, merge_key, field)?, item));
        let right: HashMap<Key, &Value> = right.iter().map(keyed).collect::<Result<_, PatchError>>()?;
        for item in left {
            if let Some(other) = right.get(&Key::of_item(item, merge_key, field)?)
                && elements(item, other, field)?
            {
                return Ok(true);
            }
        }
        return Ok(false);
    }
    if left.len() != right.len() {
        return Ok(true);
    }
    let (left, right) = (in_order(left), in_order(right));
    for (left, right) in left.into_iter().zip(right) {
        if elements(left, right, field)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Scalars sorted by their text, and others in their order.
fn in_order(list: &[Value]) -> Vec<&Value> {
    let mut values: Vec<&Value> = list.iter().collect();
    if !list.iter().any(|value| value.is_object() || value.is_array()) {
        values.sort_by_cached_key(|value| go_text::scalar(value));
    }
    values
}
