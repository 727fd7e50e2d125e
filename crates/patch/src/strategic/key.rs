//! The identity of an element in a merged list: its merge key, or the primitive value itself.

use std::collections::HashMap;

use serde_json::{Number, Value};

use super::directive::shown_map;
use crate::error::PatchError;
use crate::go_text;
use crate::object::Object;
use crate::schema::Field;

/// A scalar. As in Go, 1 and 1.0 are different.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
}

impl Key {
    /// `None` for a list or a map.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(value) => Some(Self::Bool(*value)),
            Value::Number(number) => Some(Self::Number(number.clone())),
            Value::String(text) => Some(Self::String(text.clone())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The merge key of an item.
    pub(super) fn of_item(item: &Value, name: &str, field: Field<'_>) -> Result<Self, PatchError> {
        Self::of_map(map(item)?, name, field)
    }

    pub(super) fn of_map(item: &Object, name: &str, field: Field<'_>) -> Result<Self, PatchError> {
        let key = item.get(name).and_then(Self::of);
        key.ok_or_else(|| PatchError::NoMergeKey {
            map: shown_map(item, field),
            key: name.to_owned(),
        })
    }
}

/// The index at which each key occurs first.
pub(super) fn places(keys: impl IntoIterator<Item = Key>) -> HashMap<Key, usize> {
    let mut places = HashMap::new();
    for (place, key) in keys.into_iter().enumerate() {
        places.entry(key).or_insert(place);
    }
    places
}

/// The element as a map; anything else is an error.
pub(super) fn map(element: &Value) -> Result<&Object, PatchError> {
    element.as_object().ok_or_else(|| PatchError::WrongType {
        expected: "map[string]interface {}",
        received: go_text::type_name(element),
    })
}

/// The type of a list's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elements {
    /// There are none.
    None,
    Maps,
    Primitives,
}

impl Elements {
    /// Refuses lists with elements of several types, or with lists.
    pub(super) fn of(lists: &[&[Value]], field: Field<'_>) -> Result<Self, PatchError> {
        let mut elements = lists.iter().copied().flatten();
        let Some(first) = elements.next() else {
            return Ok(Self::None);
        };
        if first.is_array() {
            return Err(PatchError::ListOfLists);
        }
        let type_name = go_text::type_name(first);
        if first.is_null() || elements.any(|element| go_text::type_name(element) != type_name) {
            let shown = lists.iter().map(|list| shown_list(list, field));
            let shown: Vec<String> = shown.collect();
            return Err(PatchError::MixedElements {
                lists: format!("[{}]", shown.join(" ")),
            });
        }
        Ok(if first.is_object() {
            Self::Maps
        } else {
            Self::Primitives
        })
    }
}

/// A list as an error shows it.
pub(super) fn shown_list(list: &[Value], field: Field<'_>) -> String {
    if field.is_confidential() {
        return "[…]".to_owned();
    }
    go_text::shown_list(list)
}
