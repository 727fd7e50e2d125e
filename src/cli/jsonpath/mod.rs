//! JSONPath templates as in `kubectl -o jsonpath` (`k8s.io/client-go/util/jsonpath`): text with expressions in braces.
//!
//! The dialect has features that RFC 9535 lacks (`{range}{end}`, several expressions, negative steps as in Python,
//! unions of fields) and lacks others, so a library for the standard would give different results. `parse` parses a
//! template, `evaluate` applies it.

mod error;
mod evaluate;
mod parse;

use serde_json::Value;

pub use error::JsonPathError;
pub(in crate::cli) use evaluate::order;
use parse::Node;

/// A parsed template.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    text: String,
    nodes: Vec<Node>,
}

impl Template {
    /// Parses a template such as `{.items[*].metadata.name}`.
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

    /// Parses an expression that may lack its braces and its first dot (`RelaxedJSONPathExpression`), as in custom
    /// columns, `--sort-by` and `wait`.
    ///
    /// # Errors
    /// See [`Self::parse`].
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

    /// The template, with braces and dot.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Applies the template to `root`. A missing field gives nothing.
    ///
    /// # Errors
    /// [`JsonPathError`] if the template cannot be applied to this value: a missing index, a filter on something other
    /// than a list.
    pub fn render(&self, root: &Value) -> Result<String, JsonPathError> {
        evaluate::render(&self.nodes, root).map_err(|reason| JsonPathError::evaluate(&self.text, reason))
    }

    /// The values found by the template's expressions.
    ///
    /// # Errors
    /// See [`Self::render`].
    pub fn find<'v>(&'v self, root: &'v Value) -> Result<Vec<&'v Value>, JsonPathError> {
        evaluate::find(&self.nodes, root).map_err(|reason| JsonPathError::evaluate(&self.text, reason))
    }
}

#[cfg(test)]
mod tests;
