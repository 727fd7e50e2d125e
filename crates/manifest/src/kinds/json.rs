//! Conversion between JSON values and values with places.

use std::rc::Rc;

use serde_json::{Number, Value as Json};

use super::super::error::Location;
use super::super::node::{Entry, Node, Value};

/// Up to this number, floating point represents every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A value without a place in a text.
pub(super) fn to_node(value: &Json) -> Node {
    let at = Location { line: 1, column: 1 };
    let child = |value: &Json| Rc::new(to_node(value));
    let value = match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Number(number.clone()),
        Json::String(text) => Value::String(text.clone()),
        Json::Array(elements) => Value::List(elements.iter().map(child).collect()),
        Json::Object(fields) => Value::Map(
            fields
                .iter()
                .map(|(name, value)| {
                    let entry = Entry {
                        key_at: at,
                        value: child(value),
                    };
                    (name.clone(), entry)
                })
                .collect(),
        ),
    };
    Node { at, value }
}

/// The value without its places. Integers are written as such, for readers that accept no fraction: `8e1` is 80.
pub(super) fn from_node(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(integer(number).unwrap_or_else(|| number.clone())),
        Value::String(text) | Value::OldBool(text) => Json::String(text.clone()),
        Value::List(elements) => Json::Array(elements.iter().map(|element| from_node(element)).collect()),
        Value::Map(entries) => {
            let fields = entries.iter();
            let fields = fields.map(|(name, entry)| (name.clone(), from_node(&entry.value)));
            Json::Object(fields.collect())
        }
    }
}

fn integer(number: &Number) -> Option<Number> {
    let value = number.as_f64().filter(|_| number.is_f64())?;
    (value.trunc() == value && value.abs() <= EXACT).then(|| Number::from(value as i64))
}
