//! From a template and a value to the template's text.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::parse::{Comparison, Filter, Node, Operand, Path, Step};

/// So many values may one template visit: `{..*..*..*}` grows without a bound otherwise.
const MAX_VISITS: usize = 1_000_000;

/// The text may be so long, bytes.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// The template's text.
pub(super) fn render(nodes: &[Node], root: &Value) -> Result<String, String> {
    let mut evaluation = Evaluation { root, visits: 0 };
    let mut text = String::new();
    evaluation.render(nodes, root, &mut text)?;
    Ok(text)
}

/// What the template's expressions find.
pub(super) fn find<'v>(nodes: &[Node], root: &'v Value) -> Result<Vec<Cow<'v, Value>>, String> {
    let mut evaluation = Evaluation { root, visits: 0 };
    let mut found = Vec::new();
    for node in nodes {
        match node {
            Node::Path(path) => found.extend(evaluation.path(path, root)?.into_iter().map(Cow::Borrowed)),
            Node::Literal(value) => found.push(Cow::Owned(value.clone())),
            Node::Text(_) | Node::Range(..) => {
                return Err("a single path is needed, without text and ranges".to_owned());
            }
        }
    }
    Ok(found)
}

struct Evaluation<'v> {
    root: &'v Value,
    visits: usize,
}

impl<'v> Evaluation<'v> {
    fn render(&mut self, nodes: &[Node], current: &'v Value, text: &mut String) -> Result<(), String> {
        for node in nodes {
            match node {
                Node::Text(literal) => text.push_str(literal),
                Node::Literal(value) => push(text, value),
                Node::Path(path) => {
                    for (index, value) in self.path(path, current)?.into_iter().enumerate() {
                        if index > 0 {
                            text.push(' ');
                        }
                        push(text, value);
                        bounded(text)?;
                    }
                }
                Node::Range(path, inner) => {
                    for value in self.path(path, current)? {
                        // What is repeated may be text alone, which costs no visits.
                        self.visit(1)?;
                        self.render(inner, value, text)?;
                    }
                }
            }
            bounded(text)?;
        }
        Ok(())
    }

    fn visit(&mut self, values: usize) -> Result<(), String> {
        self.visits = self.visits.saturating_add(values);
        if self.visits > MAX_VISITS {
            return Err(format!("it visits more than {MAX_VISITS} values"));
        }
        Ok(())
    }

    fn path(&mut self, path: &Path, current: &'v Value) -> Result<Vec<&'v Value>, String> {
        let mut values = vec![if path.from_root { self.root } else { current }];
        for step in &path.steps {
            let mut next = Vec::new();
            for value in values {
                self.step(step, value, &mut next)?;
            }
            values = next;
        }
        Ok(values)
    }

    fn step(&mut self, step: &Step, value: &'v Value, next: &mut Vec<&'v Value>) -> Result<(), String> {
        let before = next.len();
        match (step, value) {
            (Step::Field(name), Value::Object(map)) => next.extend(map.get(name)),
            (Step::Wildcard, Value::Object(map)) => next.extend(map.values()),
            (Step::Wildcard, Value::Array(list)) => next.extend(list),
            (Step::Recursive, _) => self.descend(value, next)?,
            (Step::Index(index), Value::Array(list)) => {
                next.extend(from_end(*index, list.len()).and_then(|index| list.get(index)));
            }
            (Step::Slice { from, to, step }, Value::Array(list)) => {
                let clamp = |bound: i64| from_end(bound, list.len()).unwrap_or(0).min(list.len());
                let (from, to) = (from.map_or(0, clamp), to.map_or(list.len(), clamp));
                let step = step.and_then(|step| usize::try_from(step).ok()).unwrap_or(1).max(1);
                next.extend(list.get(from..to).unwrap_or_default().iter().step_by(step));
            }
            (Step::Union(paths), _) => {
                for path in paths {
                    next.extend(self.path(path, value)?);
                }
            }
            (Step::Filter(filter), Value::Array(list)) => {
                for item in list {
                    if self.holds(filter, item)? {
                        next.push(item);
                    }
                }
            }
            (Step::Filter(filter), Value::Object(map)) => {
                for item in map.values() {
                    if self.holds(filter, item)? {
                        next.push(item);
                    }
                }
            }
            // A step that does not fit finds nothing, as kubectl with its missing keys allowed.
            _ => {}
        }
        self.visit(1 + next.len() - before)
    }

    /// The value and everything in it.
    fn descend(&mut self, value: &'v Value, next: &mut Vec<&'v Value>) -> Result<(), String> {
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            self.visit(1)?;
            next.push(value);
            match value {
                Value::Object(map) => pending.extend(map.values().rev()),
                Value::Array(list) => pending.extend(list.iter().rev()),
                _ => {}
            }
        }
        Ok(())
    }

    fn holds(&mut self, filter: &Filter, item: &'v Value) -> Result<bool, String> {
        match filter {
            Filter::Exists(operand) => Ok(!self.operand(operand, item)?.is_empty()),
            Filter::Compare(left, comparison, right) => {
                let (left, right) = (self.operand(left, item)?, self.operand(right, item)?);
                match (left.as_slice(), right.as_slice()) {
                    ([left], [right]) => Ok(compare(left, *comparison, right)),
                    ([], _) | (_, []) => Ok(false),
                    _ => Err("can only compare one element at a time".to_owned()),
                }
            }
        }
    }

    fn operand(&mut self, operand: &Operand, item: &'v Value) -> Result<Vec<Cow<'v, Value>>, String> {
        Ok(match operand {
            Operand::Path(path) => self.path(path, item)?.into_iter().map(Cow::Borrowed).collect(),
            Operand::Literal(value) => vec![Cow::Owned(value.clone())],
        })
    }
}

fn bounded(text: &str) -> Result<(), String> {
    if text.len() > MAX_OUTPUT_BYTES {
        return Err("its result is too large".to_owned());
    }
    Ok(())
}

/// An index that may count from the end; `None` before the start.
fn from_end(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let index = if index < 0 { index.saturating_add(length) } else { index };
    usize::try_from(index).ok()
}

fn compare(left: &Value, comparison: Comparison, right: &Value) -> bool {
    let order = order(left, right);
    match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

/// How two values of one kind are ordered.
pub(in crate::cli) fn order(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::String(left), Value::String(right)) => Some(left.cmp(right)),
        (Value::Number(left), Value::Number(right)) => match (left.as_i64(), right.as_i64()) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
        },
        (Value::Bool(left), Value::Bool(right)) => Some(left.cmp(right)),
        _ => (left == right).then_some(Ordering::Equal),
    }
}

/// Texts as they are, everything else as JSON.
fn push(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => text.push_str(string),
        Value::Null => {}
        other => text.push_str(&other.to_string()),
    }
}
