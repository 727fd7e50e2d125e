//! A document's values with their places in the text: what `yaml` makes of a text and everything after it reads.

use std::rc::Rc;

use indexmap::IndexMap;
use serde_json::Number;

use super::error::{FieldPath, Location, Segment};

/// A value and where it begins. What an alias stands for is shared, and lies where its anchor is.
#[derive(Debug)]
pub struct Node {
    /// Where it begins.
    pub at: Location,
    /// What it is.
    pub value: Value,
}

/// Plain data: what JSON has, and one thing more.
#[derive(Debug)]
pub enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A finite number.
    Number(Number),
    /// A text.
    String(String),
    /// A plain `yes`, `off` …: a boolean for YAML 1.1 and with it for Kubernetes, a text for YAML 1.2. Nobody knows which was meant.
    OldBool(String),
    /// A list.
    List(Vec<Rc<Node>>),
    /// A mapping, in the order of the text.
    Map(IndexMap<String, Entry>),
}

/// What a mapping has for a key.
#[derive(Debug)]
pub struct Entry {
    /// Where the key is.
    pub key_at: Location,
    /// The value.
    pub value: Rc<Node>,
}

impl Node {
    /// The value of a field, if this is a mapping that has it.
    pub fn get(&self, field: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(entries) => entries.get(field).map(|entry| &*entry.value),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Where a field is: its key, or the element of a list, or the innermost one around it that exists.
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

    /// The elements of a list with their paths; nothing for other values.
    pub fn elements(&self, path: &FieldPath) -> Vec<(FieldPath, &Self)> {
        match &self.value {
            Value::List(elements) => {
                let numbered = elements.iter().enumerate();
                numbered
                    .map(|(index, element)| (path.index(index), &**element))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}
