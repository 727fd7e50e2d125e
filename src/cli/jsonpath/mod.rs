//! Templates of JSONPath as `kubectl -o jsonpath` has them (`k8s.io/client-go/util/jsonpath`): text with expressions in braces.
//!
//! Its dialect has what RFC 9535 has not (`{range}{end}`, several expressions, negative steps as in Python, unions of fields) and lacks
//! other things, so that a library for the standard would give other answers. `parse` understands a template, `evaluate` fills it in.

mod error;
mod evaluate;
mod parse;

use serde_json::Value;

pub use error::JsonPathError;
pub(in crate::cli) use evaluate::order;
use parse::Node;

/// A template that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

impl Template {
    /// Understands a template such as `{.items[*].metadata.name}`.
    ///
    /// # Errors
    /// [`JsonPathError`] says what is wrong.
    pub fn parse(template: &str) -> Result<Self, JsonPathError> {
        let nodes = parse::template(template).map_err(|reason| JsonPathError::parse(template, reason))?;
        Ok(Self {
            text: template.to_owned(),
            nodes,
        })
    }

    /// Understands an expression that may lack its braces and its first dot (`RelaxedJSONPathExpression`), as custom columns, `--sort-by`
    /// and `wait` take it.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_relaxed(expression: &str) -> Result<Self, JsonPathError> {
        let inner = expression
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(expression);
        let dot = if inner.starts_with(['.', '[', '$', '@']) {
            ""
        } else {
            "."
        };
        Self::parse(&format!("{{{dot}{inner}}}"))
    }

    /// The template filled in with what is in `root`. A field that is not there gives nothing.
    ///
    /// # Errors
    /// [`JsonPathError`] when the template cannot be applied to this value: an index that is not there, a filter of what is no list.
    pub fn render(&self, root: &Value) -> Result<String, JsonPathError> {
        evaluate::render(&self.nodes, root).map_err(|reason| JsonPathError::evaluate(&self.text, reason))
    }

    /// What the expressions of the template find.
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn find<'v>(&'v self, root: &'v Value) -> Result<Vec<&'v Value>, JsonPathError> {
        evaluate::find(&self.nodes, root).map_err(|reason| JsonPathError::evaluate(&self.text, reason))
    }
}

#[cfg(test)]
mod tests;
