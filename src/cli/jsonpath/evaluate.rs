//! Applies a template to a value, by the rules of client-go's `jsonpath.go`. With missing keys allowed, as by default in
//! kubectl, a missing field finds nothing. A missing index is always an error.

use std::cmp::Ordering;

use serde_json::Value;

use super::error::EvaluateError;
use super::parse::{Comparison, Filter, Node, Step};

/// Maximum number of values that a template may visit: `{..*..*..*}` grows without bound otherwise.
const MAX_VISITS: usize = 1_000_000;

/// Maximum length of the resulting text, in bytes.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// The resulting text.
pub(super) fn render(nodes: &[Node], root: &Value, allows_missing: bool) -> Result<String, EvaluateError> {
    let mut evaluation = Evaluation {
        visits: 0,
        allows_missing,
    };
    let mut text = String::new();
    evaluation.render(nodes, root, &mut text)?;
    Ok(text)
}

/// A JSON list for each text, and for the values found by each expression.
pub(super) fn render_as_json(nodes: &[Node], root: &Value, allows_missing: bool) -> Result<String, EvaluateError> {
    let mut evaluation = Evaluation {
        visits: 0,
        allows_missing,
    };
    let mut text = String::new();
    evaluation.render_as_json(nodes, root, &mut text)?;
    Ok(text)
}

/// The values found by the template's expressions.
pub(super) fn find<'v>(nodes: &'v [Node], root: &'v Value) -> Result<Vec<&'v Value>, EvaluateError> {
    let mut evaluation = Evaluation {
        visits: 0,
        allows_missing: true,
    };
    let mut found = Vec::new();
    for node in nodes {
        match node {
            Node::Action(steps) => found.extend(evaluation.steps(steps, vec![root])?),
            Node::Text(_) | Node::Range(..) => {
                return Err(EvaluateError::NotOnePath);
            }
        }
    }
    Ok(found)
}

struct Evaluation {
    visits: usize,
    allows_missing: bool,
}

impl Evaluation {
    fn render(&mut self, nodes: &[Node], current: &Value, text: &mut String) -> Result<(), EvaluateError> {
        for node in nodes {
            match node {
                Node::Text(literal) => text.push_str(literal),
                Node::Action(steps) => {
                    for (index, value) in self.steps(steps, vec![current])?.into_iter().enumerate() {
                        if index > 0 {
                            text.push(' ');
                        }
                        push(text, value);
                        bounded(text)?;
                    }
                }
                Node::Range(steps, inner) => {
                    for value in self.steps(steps, vec![current])? {
                        // A repeated part may consist only of text, which would otherwise cost no visits.
                        self.visit(1)?;
                        self.render(inner, value, text)?;
                    }
                }
            }
            bounded(text)?;
        }
        Ok(())
    }

    fn render_as_json(&mut self, nodes: &[Node], current: &Value, text: &mut String) -> Result<(), EvaluateError> {
        for node in nodes {
            match node {
                Node::Text(literal) => push_list(text, &[&Value::String(literal.clone())])?,
                Node::Action(steps) => push_list(text, &self.steps(steps, vec![current])?)?,
                Node::Range(steps, inner) => {
                    for value in self.steps(steps, vec![current])? {
                        self.visit(1)?;
                        self.render_as_json(inner, value, text)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn visit(&mut self, values: usize) -> Result<(), EvaluateError> {
        self.visits = self.visits.saturating_add(values);
        if self.visits > MAX_VISITS {
            return Err(EvaluateError::TooManyVisits { max: MAX_VISITS });
        }
        Ok(())
    }

    fn steps<'v>(&mut self, steps: &'v [Step], mut values: Vec<&'v Value>) -> Result<Vec<&'v Value>, EvaluateError> {
        for step in steps {
            values = match step {
                Step::Literal(text @ Value::String(_)) => vec![text],
                Step::Union(paths) => {
                    // All values of one path come before those of the next.
                    let mut united = Vec::new();
                    for path in paths {
                        self.visit(values.len())?;
                        united.extend(self.steps(path, values.clone())?);
                    }
                    united
                }
                _ => {
                    let (mut next, is_empty) = (Vec::new(), values.is_empty());
                    for value in values {
                        self.step(step, value, &mut next)?;
                    }
                    if let Step::Field(name) = step
                        && next.is_empty()
                        && !is_empty
                        && !self.allows_missing
                    {
                        return Err(EvaluateError::NotFound(name.clone()));
                    }
                    next
                }
            };
        }
        Ok(values)
    }

    fn step<'v>(&mut self, step: &'v Step, value: &'v Value, next: &mut Vec<&'v Value>) -> Result<(), EvaluateError> {
        let before = next.len();
        match (step, value) {
            (Step::Literal(literal), _) => next.push(literal),
            (Step::Field(name), Value::Object(map)) => next.extend(map.get(name)),
            (Step::Wildcard, Value::Object(map)) => next.extend(map.values()),
            (Step::Wildcard, Value::Array(list)) => next.extend(list),
            (Step::Recursive, _) => self.descend(value, next)?,
            (Step::Index(index), Value::Array(list)) => next.push(at(list, *index)?),
            (Step::Slice { from, to, step }, Value::Array(list)) => {
                let step = step.and_then(|step| usize::try_from(step).ok()).unwrap_or(1).max(1);
                next.extend(slice(list, *from, *to)?.iter().step_by(step));
            }
            (Step::Index(_) | Step::Slice { .. }, Value::Null) => {}
            (Step::Index(_) | Step::Slice { .. }, other) => {
                return Err(EvaluateError::NotAList {
                    go_type: go_type(other),
                });
            }
            (Step::Filter(filter), Value::Array(list)) => {
                for item in list {
                    if self.holds(filter, item)? {
                        next.push(item);
                    }
                }
            }
            (Step::Filter(_), other) => {
                return Err(EvaluateError::NotFilterable {
                    go_type: go_type(other),
                });
            }
            // A name finds nothing in a value that has no fields.
            _ => {}
        }
        self.visit(1 + next.len() - before)
    }

    /// Collects the value and everything inside it, without empty strings, empty lists, empty objects and values of
    /// other types.
    fn descend<'v>(&mut self, value: &'v Value, next: &mut Vec<&'v Value>) -> Result<(), EvaluateError> {
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            self.visit(1)?;
            let is_empty = match value {
                Value::Object(map) => {
                    pending.extend(map.values().rev());
                    map.is_empty()
                }
                Value::Array(list) => {
                    pending.extend(list.iter().rev());
                    list.is_empty()
                }
                Value::String(text) => text.is_empty(),
                Value::Null | Value::Bool(_) | Value::Number(_) => true,
            };
            if !is_empty {
                next.push(value);
            }
        }
        Ok(())
    }

    /// Whether an item meets the condition. Its fields may always be missing.
    fn holds(&mut self, filter: &Filter, item: &Value) -> Result<bool, EvaluateError> {
        let allows_missing = std::mem::replace(&mut self.allows_missing, true);
        let holds = self.condition(filter, item);
        self.allows_missing = allows_missing;
        holds
    }

    fn condition(&mut self, filter: &Filter, item: &Value) -> Result<bool, EvaluateError> {
        match filter {
            Filter::Exists(steps) => {
                let found = self.steps(steps, vec![item]);
                // A missing index counts as not existing, but exceeding the limit of visits is still an error.
                self.visit(0)?;
                Ok(found.is_ok_and(|found| !found.is_empty()))
            }
            Filter::Compare(left, comparison, right) => {
                let (left, right) = (self.steps(left, vec![item])?, self.steps(right, vec![item])?);
                match (left.as_slice(), right.as_slice()) {
                    ([left], [right]) => compare(left, *comparison, right),
                    ([], _) | ([_], []) => Ok(false),
                    _ => Err(EvaluateError::ManyCompared),
                }
            }
        }
    }
}

fn bounded(text: &str) -> Result<(), EvaluateError> {
    if text.len() > MAX_OUTPUT_BYTES {
        return Err(EvaluateError::TooLarge);
    }
    Ok(())
}

fn length(list: &[Value]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}

/// A bound that counts from the end if it is negative.
fn from_end(bound: i64, length: i64) -> i64 {
    if bound < 0 { bound.saturating_add(length) } else { bound }
}

fn at(list: &[Value], index: i64) -> Result<&Value, EvaluateError> {
    let index = from_end(index, length(list));
    let found = usize::try_from(index).ok().and_then(|index| list.get(index));
    found.ok_or_else(|| EvaluateError::OutOfBounds {
        index,
        length: length(list),
    })
}

/// Unlike in Python, a slice must lie within the list unless it is empty.
fn slice(list: &[Value], from: Option<i64>, to: Option<i64>) -> Result<&[Value], EvaluateError> {
    let length = length(list);
    let (from, to) = (
        from_end(from.unwrap_or(0), length),
        from_end(to.unwrap_or(length), length),
    );
    if from == to {
        return Ok(&[]);
    }
    if !(0..length).contains(&from) {
        return Err(EvaluateError::OutOfBounds { index: from, length });
    }
    if !(0..=length).contains(&to) {
        return Err(EvaluateError::OutOfBounds {
            index: to.saturating_sub(1),
            length,
        });
    }
    let range = usize::try_from(from).ok().zip(usize::try_from(to).ok());
    let found = range.and_then(|(from, to)| list.get(from..to));
    found.ok_or(EvaluateError::ReversedSlice { from, to })
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// Only values of the same kind can be compared. Unlike in client-go, all numbers are of one kind.
fn compare(left: &Value, comparison: Comparison, right: &Value) -> Result<bool, EvaluateError> {
    match (left, right) {
        (Value::String(_), Value::String(_)) | (Value::Number(_), Value::Number(_)) => {}
        (Value::Bool(_), Value::Bool(_)) if matches!(comparison, Comparison::Equal | Comparison::NotEqual) => {}
        (Value::Null | Value::Array(_) | Value::Object(_), _)
        | (_, Value::Null | Value::Array(_) | Value::Object(_))
        | (Value::Bool(_), Value::Bool(_)) => return Err(EvaluateError::NotComparable),
        _ => return Err(EvaluateError::DifferentTypes),
    }
    let order = order(left, right);
    Ok(match comparison {
        Comparison::Equal => order == Some(Ordering::Equal),
        Comparison::NotEqual => order != Some(Ordering::Equal),
        Comparison::Less => order == Some(Ordering::Less),
        Comparison::LessOrEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Comparison::Greater => order == Some(Ordering::Greater),
        Comparison::GreaterOrEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    })
}

/// The order of two values of the same kind.
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

/// Strings unchanged, everything else as Go's JSON without HTML escapes.
fn push(text: &mut String, value: &Value) {
    match value {
        Value::String(string) => text.push_str(string),
        Value::Null => text.push_str("<nil>"),
        other => push_json(text, &other.to_string(), ""),
    }
}

/// A JSON list, indented by four spaces, and a line break.
fn push_list(text: &mut String, list: &[&Value]) -> Result<(), EvaluateError> {
    const INDENT: &str = "    ";
    text.push('[');
    for (index, value) in list.iter().enumerate() {
        let separator = if index == 0 { "\n" } else { ",\n" };
        text.push_str(separator);
        text.push_str(INDENT);
        let mut json = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(INDENT.as_bytes());
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, formatter);
        // A value in memory is always JSON.
        let _ = serde::Serialize::serialize(value, &mut serializer);
        push_json(text, &String::from_utf8_lossy(&json), INDENT);
        bounded(text)?;
    }
    let end = if list.is_empty() { "]\n" } else { "\n]\n" };
    text.push_str(end);
    bounded(text)
}

/// JSON with the escapes that Go's encoder adds. The lines after the first are indented.
fn push_json(text: &mut String, json: &str, indent: &str) {
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            '\n' => {
                text.push('\n');
                text.push_str(indent);
            }
            _ => text.push(character),
        }
    }
}
