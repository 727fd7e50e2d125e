//! The target of a JSON pointer (RFC 6901): a map and a key, or a list and an index.

use serde_json::{Map, Value};

use super::error::Cause;
use crate::go_text::shorten;

/// A map or list, and the last part of a pointer.
#[derive(Debug)]
pub(super) struct Place<'d> {
    container: Container<'d>,
    pub(super) key: String,
}

#[derive(Debug)]
enum Container<'d> {
    Map(&'d mut Map<String, Value>),
    List(&'d mut Vec<Value>),
}

/// Finds the map or list that the last part of a pointer refers to, and the number of values visited. `None` if there
/// is no such map or list, if the pointer is empty, or if it does not begin with `/`.
pub(super) fn find<'d>(document: &'d mut Value, pointer: &str) -> Option<(Place<'d>, usize)> {
    let (parents, last) = pointer.rsplit_once('/')?;
    let mut value = document;
    let mut visited = 1;
    if !parents.is_empty() {
        for part in parents.strip_prefix('/')?.split('/') {
            let place = Place::new(value, part)?;
            value = place.into_value()?;
            visited += 1;
        }
    }
    Some((Place::new(value, last)?, visited))
}

/// How many maps and lists contain the value at a pointer.
pub(super) fn depth(pointer: &str) -> usize {
    pointer.matches('/').count()
}

impl<'d> Place<'d> {
    fn new(container: &'d mut Value, part: &str) -> Option<Self> {
        let container = match container {
            Value::Object(fields) => Container::Map(fields),
            Value::Array(elements) => Container::List(elements),
            _ => return None,
        };
        Some(Self {
            container,
            key: part.replace("~1", "/").replace("~0", "~"),
        })
    }

    /// The value here. A missing field of a map is `None`.
    pub(super) fn get(&self) -> Result<Option<&Value>, Cause> {
        match &self.container {
            Container::Map(fields) => Ok(fields.get(&self.key)),
            Container::List(elements) => {
                let (index, written) = position(&self.key, elements.len())?;
                let element = elements.get(index).ok_or(Cause::InvalidIndex(written))?;
                Ok(Some(element))
            }
        }
    }

    /// The work of moving all elements behind this one, as a number of visited values.
    pub(super) fn moving(&self) -> usize {
        match &self.container {
            Container::Map(_) => 0,
            Container::List(elements) => {
                position(&self.key, elements.len()).map_or(0, |(index, _)| elements.len().saturating_sub(index) / 8)
            }
        }
    }

    /// Sets a field, or inserts an element. The index `-` is the end of the list, and so is -1.
    pub(super) fn add(self, value: Value) -> Result<(), Cause> {
        match self.container {
            Container::Map(fields) => {
                fields.insert(self.key, value);
            }
            Container::List(elements) if self.key == "-" => elements.push(value),
            Container::List(elements) => {
                let (index, written) = position(&self.key, elements.len() + 1).map_err(|cause| match cause {
                    Cause::InvalidIndex(_) => cause,
                    cause => Cause::NotAnIndex {
                        index: shorten(self.key.clone()),
                        cause: Box::new(cause),
                    },
                })?;
                if index > elements.len() {
                    return Err(Cause::InvalidIndex(written));
                }
                elements.insert(index, value);
            }
        }
        Ok(())
    }

    /// Sets a field or an element.
    pub(super) fn replace(self, value: Value) -> Result<(), Cause> {
        match self.container {
            Container::Map(fields) => {
                fields.insert(self.key, value);
            }
            Container::List(elements) => {
                let (index, written) = position(&self.key, elements.len())?;
                *elements.get_mut(index).ok_or(Cause::InvalidIndex(written))? = value;
            }
        }
        Ok(())
    }

    pub(super) fn remove(self) -> Result<Value, Cause> {
        match self.container {
            Container::Map(fields) => fields
                .remove(&self.key)
                .ok_or_else(|| Cause::NoKey(shorten(self.key.clone()))),
            Container::List(elements) => {
                let (index, written) = position(&self.key, elements.len())?;
                if index >= elements.len() {
                    return Err(Cause::InvalidIndex(written));
                }
                Ok(elements.remove(index))
            }
        }
    }

    fn into_value(self) -> Option<&'d mut Value> {
        match self.container {
            Container::Map(fields) => fields.get_mut(&self.key),
            Container::List(elements) => {
                let (index, _) = position(&self.key, elements.len()).ok()?;
                elements.get_mut(index)
            }
        }
    }
}

/// The index into a list of this length, and its text. A negative index counts from the end. The result may be beyond
/// the end.
fn position(key: &str, len: usize) -> Result<(usize, i64), Cause> {
    let written = key.parse::<i64>().map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            Cause::OutOfRange(shorten(key.to_owned()))
        }
        _ => Cause::NotANumber(shorten(key.to_owned())),
    })?;
    let index = if written < 0 {
        usize::try_from(written.unsigned_abs())
            .ok()
            .and_then(|back| len.checked_sub(back))
    } else {
        usize::try_from(written).ok()
    };
    Ok((index.ok_or(Cause::InvalidIndex(written))?, written))
}
