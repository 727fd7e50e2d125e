//! A document's values with their places in the text: the output of `yaml`, and the input of all later stages.

use std::rc::Rc;

use indexmap::IndexMap;
use serde_json::Number;

use super::error::{Location, Segment};

/// A value and where it begins. The target of an alias is shared, with the place of its anchor.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub at: Location,
    /// Its content.
    pub value: Value,
}

/// Plain data: JSON's values and one more kind.
#[derive(Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A finite number.
    Number(Number),
    String(String),
    /// A plain `yes`, `off` …: a boolean in YAML 1.1 and so in Kubernetes, a string in YAML 1.2. It is unclear which
    /// was meant.
    OldBool(String),
    List(Vec<Rc<Node>>),
    /// A mapping, in the order of the text.
    Map(IndexMap<String, Entry>),
}

/// A key's entry in a mapping.
#[derive(Debug)]
pub struct Entry {
    /// Where the key is.
    pub key_at: Location,
    pub value: Rc<Node>,
}

impl Node {
    /// The value of a field, if this is a mapping with that field.
    pub fn get(&self, field: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.get(field).map(|entry| &*entry.value),
            _ => None,
        }
    }

    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Where a field is: its key, the list element, or the innermost existing value around it.
    pub fn locate(&self, path: &[Segment]) -> Location {
        let (mut node, mut at) = (self, self.at);
        for segment in path {
            match (segment, &node.value) {
                (Segment::Field(name) | Segment::Key(name), Value::Map(entries)) => {
                    let Some(entry) = entries.get(name) else { break };
                    (node, at) = (&entry.value, entry.key_at);
                }
                (Segment::Index(index), Value::List(elements)) => {
                    let Some(element) = elements.get(*index) else { break };
                    (node, at) = (element, element.at);
                }
                _ => break,
            }
        }
        at
    }

    /// Whether there is a value at this path.
    pub fn has(&self, path: &[Segment]) -> bool {
        let mut node = self;
        path.iter().all(|segment| {
            let inner = match (segment, &node.value) {
                (Segment::Field(name) | Segment::Key(name), Value::Map(entries)) => {
                    entries.get(name).map(|entry| &*entry.value)
                }
                (Segment::Index(index), Value::List(elements)) => elements.get(*index).map(|element| &**element),
                _ => None,
            };
            inner.map(|inner| node = inner).is_some()
        })
    }
}
