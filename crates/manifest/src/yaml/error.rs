//! Why the values of a document cannot be read to its end.

/// What ends the reading of a document whose YAML is valid so far.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("more than {max_values} values, or {max_mib} MiB, with all aliases followed; is it a manifest?")]
    TooMuch { max_values: usize, max_mib: usize },
    #[error("nested more than {max} levels deep; is it a manifest?")]
    TooDeep { max: usize },
    #[error("not valid YAML: the alias refers to what it is itself a part of")]
    AliasOfItself,
}
