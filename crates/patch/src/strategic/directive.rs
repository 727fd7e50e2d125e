//! The directives of patches, and content without them.

use serde_json::Value;

use crate::error::PatchError;
use crate::go_text;
use crate::object::Object;
use crate::schema::Field;

pub(super) const PATCH: &str = "$patch";
pub(super) const DELETE: &str = "delete";
pub(super) const REPLACE: &str = "replace";
pub(super) const MERGE: &str = "merge";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM_PRIMITIVE_LIST: &str = "$deleteFromPrimitiveList";
const SET_ELEMENT_ORDER: &str = "$setElementOrder";

/// The field's name in `$setElementOrder/f`; `None` for any other name.
pub(super) fn ordered_list(name: &str) -> Result<Option<&str>, PatchError> {
    list(name, SET_ELEMENT_ORDER, PatchError::BadSetElementOrder)
}

/// The field's name in `$deleteFromPrimitiveList/f`; `None` for any other name.
pub(super) fn deletion_list(name: &str) -> Result<Option<&str>, PatchError> {
    list(name, DELETE_FROM_PRIMITIVE_LIST, PatchError::BadPrimitiveList)
}

fn list<'n>(name: &'n str, directive: &str, malformed: PatchError) -> Result<Option<&'n str>, PatchError> {
    let Some(rest) = name.strip_prefix(directive) else {
        return Ok(None);
    };
    // The list of a directive is not itself a list to patch.
    match rest.strip_prefix('/') {
        Some(field) if !field.starts_with('$') => Ok(Some(field)),
        _ => Err(malformed),
    }
}

pub(super) fn order_of(field: &str) -> String {
    format!("{SET_ELEMENT_ORDER}/{field}")
}

pub(super) fn deletions_from(field: &str) -> String {
    format!("{DELETE_FROM_PRIMITIVE_LIST}/{field}")
}

/// A value that a patch adds to an object: without `null` in its maps, and without directives. `None` if it is itself a
/// directive.
pub(super) fn content(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(PATCH) => None,
        Value::Object(fields) => Some(Value::Object(content_of_map(fields))),
        Value::Array(elements) => Some(Value::Array(content_of_list(elements))),
        scalar => Some(scalar),
    }
}

pub(super) fn content_of_map(fields: Object) -> Object {
    let mut kept = Object::new();
    for (name, value) in fields {
        let is_directive =
            name == RETAIN_KEYS || !matches!((ordered_list(&name), deletion_list(&name)), (Ok(None), Ok(None)));
        if value.is_null() || is_directive {
            continue;
        }
        if let Some(value) = content(value) {
            kept.insert(name, value);
        }
    }
    kept
}

pub(super) fn content_of_list(elements: Vec<Value>) -> Vec<Value> {
    elements.into_iter().filter_map(content).collect()
}

/// The error for a value of `$patch` that is unknown in its place.
pub(super) fn unknown(directive: &Value, map: &Object, field: Field<'_>) -> PatchError {
    PatchError::UnknownDirective {
        // `%s` in Go.
        directive: match directive {
            Value::String(text) => go_text::shorten(text.clone()),
            Value::Null => go_text::type_name(directive).to_owned(),
            Value::Array(_) | Value::Object(_) => go_text::shown(directive),
            scalar => format!("%!s({}={})", go_text::type_name(scalar), go_text::shown(scalar)),
        },
        map: shown_map(map, field),
    }
}

/// A map as an error shows it: for a kind with secret values, only the names of the fields.
pub(super) fn shown_map(map: &Object, field: Field<'_>) -> String {
    if field.is_confidential() {
        let hidden = map.keys().map(|name| (name.clone(), Value::from("…")));
        return go_text::shown(&Value::Object(hidden.collect()));
    }
    go_text::shown(&Value::Object(map.clone()))
}
