//! The conditions of `wait`.

use std::str::FromStr;

use anyhow::bail;
use serde_json::Value;

use super::super::jsonpath::Template;

/// The condition to wait for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Status { name: String, value: String },
    Delete,
    Create,
    JsonPath { path: Template, value: Option<String> },
}

impl FromStr for Condition {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            if name.is_empty() {
                bail!("condition name must not be empty");
            }
            return Ok(Self::Status {
                name: name.to_owned(),
                value: value.to_owned(),
            });
        }
        if let Some(expression) = text.strip_prefix("jsonpath=") {
            return jsonpath_condition(expression);
        }
        match text.to_ascii_lowercase().as_str() {
            "delete" => Ok(Self::Delete),
            "create" => Ok(Self::Create),
            _ => bail!("unrecognized condition: {text:?}"),
        }
    }
}

/// `{PATH}`, `{PATH}=VALUE` or `.PATH=VALUE`; the path may contain equals signs in quotes or braces.
fn jsonpath_condition(expression: &str) -> anyhow::Result<Condition> {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut split = None;
    for (at, character) in expression.char_indices() {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') if depth > 0 => quote = Some(character),
            (None, '{' | '[' | '(') => depth += 1,
            (None, '}' | ']' | ')') => depth = depth.saturating_sub(1),
            (None, '=') if depth == 0 => {
                split = Some(at);
                break;
            }
            _ => {}
        }
    }
    let (path, value) = match split {
        Some(at) => {
            let value = expression.get(at + 1..).unwrap_or_default();
            let bare = |quote: char| value.strip_prefix(quote).and_then(|value| value.strip_suffix(quote));
            let value = bare('\'').or_else(|| bare('"')).unwrap_or(value);
            (expression.get(..at).unwrap_or_default(), Some(value.to_owned()))
        }
        None => (expression, None),
    };
    if path.is_empty() {
        bail!("jsonpath expression cannot be empty");
    }
    if value.as_deref() == Some("") {
        bail!("jsonpath wait value cannot be empty");
    }
    Ok(Condition::JsonPath {
        path: Template::parse_relaxed(path)?,
        value,
    })
}

impl Condition {
    /// Whether an existing object meets the condition.
    pub(super) fn is_met(&self, object: &Value) -> anyhow::Result<bool> {
        match self {
            Self::Status { name, value } => Ok(has_status(object, name, value)),
            Self::Delete => Ok(false),
            Self::Create => Ok(true),
            Self::JsonPath { path, value } => {
                let found = path.find(object)?;
                let Some(wanted) = value else {
                    return Ok(!found.is_empty());
                };
                match found.as_slice() {
                    [] => Ok(false),
                    [only] if only.is_object() || only.is_array() => {
                        bail!("jsonpath leads to a nested object or list and cannot be compared")
                    }
                    [only] => Ok(only.as_str().map_or_else(|| only.to_string(), str::to_owned) == *wanted),
                    _ => bail!("given jsonpath expression matches more than one value"),
                }
            }
        }
    }
}

/// Whether the condition of this name has this value, for the object's current generation.
fn has_status(object: &Value, name: &str, value: &str) -> bool {
    let text = |condition: &Value, field: &str| condition.get(field).and_then(Value::as_str).map(str::to_owned);
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let mut conditions = conditions.into_iter().flatten();
    let named =
        conditions.find(|condition| text(condition, "type").is_some_and(|found| found.eq_ignore_ascii_case(name)));
    let Some(condition) = named else { return false };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = condition.get("observedGeneration");
    let observed = observed.or_else(|| object.pointer("/status/observedGeneration"));
    if let (Some(observed), Some(generation)) = (observed.and_then(Value::as_i64), generation)
        && observed < generation
    {
        return false;
    }
    text(condition, "status").is_some_and(|found| found.eq_ignore_ascii_case(value))
}
