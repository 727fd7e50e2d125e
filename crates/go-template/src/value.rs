//! Values during an execution.

use std::rc::Rc;

use serde_json::{Map, Value};

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Val<'a> {
    /// No value, such as that of a missing key.
    Missing,
    Nil,
    Bool(bool),
    Int(i64, IntType),
    Float(f64),
    Str(&'a str),
    /// A computed text.
    Text(Rc<str>),
    List(&'a [Value]),
    Map(&'a Map<String, Value>),
    /// An element of a list or map. It has no type until [`Val::unboxed`].
    Boxed(&'a Value),
}

/// Go's type of an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IntType {
    Int,
    /// Integers of objects.
    Int64,
    /// Bytes of strings.
    Uint8,
}

impl<'a> Val<'a> {
    /// The value of an element, with its type.
    pub(crate) fn unboxed(self) -> Self {
        match self {
            Self::Boxed(value) => match value {
                Value::Null => Self::Nil,
                Value::Bool(value) => Self::Bool(*value),
                Value::Number(number) => match number.as_i64() {
                    Some(number) => Self::Int(number, IntType::Int64),
                    None => Self::Float(number.as_f64().unwrap_or_default()),
                },
                Value::String(text) => Self::Str(text),
                Value::Array(list) => Self::List(list),
                Value::Object(map) => Self::Map(map),
            },
            other => other,
        }
    }

    /// [`Val::unboxed`], as between the commands of a pipeline: nil is no value there.
    pub(crate) fn piped(self) -> Self {
        match self.unboxed() {
            Self::Nil => Self::Missing,
            other => other,
        }
    }

    pub(crate) fn int(value: usize) -> Self {
        Self::Int(i64::try_from(value).unwrap_or(i64::MAX), IntType::Int)
    }

    /// The text of a string. The value is unboxed.
    pub(crate) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Self::Missing | Self::Nil | Self::Boxed(Value::Null))
    }

    /// Whether `if` accepts it.
    pub(crate) fn is_true(&self) -> bool {
        match self.clone().unboxed() {
            Self::Missing | Self::Nil | Self::Boxed(_) => false,
            Self::Bool(value) => value,
            Self::Int(value, _) => value != 0,
            Self::Float(value) => value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::Text(text) => !text.is_empty(),
            Self::List(list) => !list.is_empty(),
            Self::Map(map) => !map.is_empty(),
        }
    }

    /// Go's name of the type.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Missing | Self::Nil => "<nil>",
            Self::Bool(_) => "bool",
            Self::Int(_, IntType::Int) => "int",
            Self::Int(_, IntType::Int64) => "int64",
            Self::Int(_, IntType::Uint8) => "uint8",
            Self::Float(_) => "float64",
            Self::Str(_) | Self::Text(_) => "string",
            Self::List(_) => "[]interface {}",
            Self::Map(_) => "map[string]interface {}",
            Self::Boxed(_) => "interface {}",
        }
    }
}
