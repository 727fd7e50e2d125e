//! Damage of objects and files. No error contains the content of an object.

/// The value is not a Kubernetes object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidObject {
    #[error("the object is not a JSON object")]
    NotAMap,
    #[error("the object's {field} is not {expected}")]
    Field {
        field: &'static str,
        expected: &'static str,
    },
    #[error("the object is nested too deeply")]
    TooDeep,
}

/// The damage of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it is not a regular file")]
    NotAFile,
    #[error("it is not a directory")]
    NotADirectory,
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
    #[error("it is not JSON ({0})")]
    NotJson(String),
    #[error("{0}")]
    NotAnObject(#[from] InvalidObject),
    #[error("it contains {0}")]
    OtherObject(String),
    #[error("its name is not that of {0}")]
    ForeignName(&'static str),
    #[error("it is missing, but there are objects")]
    Missing,
}
