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
    /// Whether a missing field finds nothing, instead of being an error.
    allows_missing: bool,
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
            allows_missing: true,
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

    /// The template for which a missing field is an error, unless it is allowed.
    #[must_use]
    pub fn allowing_missing(self, allows_missing: bool) -> Self {
        Self { allows_missing, ..self }
    }

    /// Applies the template to `root`. A missing field gives nothing, unless it is an error.
    ///
    /// # Errors
    /// [`JsonPathError`] if the template cannot be applied to this value: a missing index, a filter on something other
    /// than a list.
    pub fn render(&self, root: &Value) -> Result<String, JsonPathError> {
        self.checked(evaluate::render(&self.nodes, root, self.allows_missing))
    }

    /// Applies the template to `root`: a JSON list for each of its parts.
    ///
    /// # Errors
    /// See [`Self::render`].
    pub fn render_as_json(&self, root: &Value) -> Result<String, JsonPathError> {
        self.checked(evaluate::render_as_json(&self.nodes, root, self.allows_missing))
    }

    /// The values found by the template's expressions.
    ///
    /// # Errors
    /// See [`Self::render`].
    pub fn find<'v>(&'v self, root: &'v Value) -> Result<Vec<&'v Value>, JsonPathError> {
        self.checked(evaluate::find(&self.nodes, root))
    }

    fn checked<T>(&self, result: Result<T, error::EvaluateError>) -> Result<T, JsonPathError> {
        result.map_err(|reason| JsonPathError::evaluate(&self.text, reason))
    }
}

#[cfg(test)]
mod tests;
