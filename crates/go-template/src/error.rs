//! Errors of templates, in Go's words.

/// The template cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("template: output:{line}: {message}")]
pub struct ParseError {
    pub(crate) line: usize,
    pub(crate) message: String,
}

/// The template cannot be applied to a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ExecuteError {
    pub(crate) message: String,
    pub(crate) output: String,
}

impl ExecuteError {
    /// The output before the error.
    #[must_use]
    pub fn output(&self) -> &str {
        &self.output
    }
}
