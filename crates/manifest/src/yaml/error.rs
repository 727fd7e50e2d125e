//! Why a document cannot be read to its end.

/// Errors that end the reading of a document although its YAML is valid so far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("more than {max_values} values or {max_mib} MiB after expanding aliases; is it a manifest?")]
    TooMuch { max_values: usize, max_mib: usize },
    #[error("nested more than {max} levels deep; is it a manifest?")]
    TooDeep { max: usize },
    #[error("not valid YAML: the alias refers to a node that contains it")]
    AliasOfItself,
}
