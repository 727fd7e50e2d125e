//! Why an operation of a JSON patch does not apply, with the messages of evanphx/json-patch v4.

use std::str::FromStr;

use crate::go_text::shorten;
use crate::limits::MAX_BYTES;

/// The kind of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inserts into a list, or sets a field.
    Add,
    /// Removes an element or a field.
    Remove,
    /// Sets an element or a field.
    Replace,
    /// Removes a value and adds it elsewhere.
    Move,
    /// Adds a value from elsewhere.
    Copy,
    /// Compares a value with the one in the document.
    Test,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Ok(match name {
            "add" => Self::Add,
            "remove" => Self::Remove,
            "replace" => Self::Replace,
            "move" => Self::Move,
            "copy" => Self::Copy,
            "test" => Self::Test,
            _ => return Err(()),
        })
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Add => "add",
            Self::Remove => "remove",
            Self::Replace => "replace",
            Self::Move => "move",
            Self::Copy => "copy",
            Self::Test => "test",
        })
    }
}

/// Why an operation of a JSON patch does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationError {
    /// The kind of operation is missing or unknown.
    #[error("Unexpected kind: {0}")]
    UnknownKind(String),
    /// A path is missing or not a string.
    #[error("{kind} operation failed to decode {member}: {cause}")]
    Undecoded {
        kind: Kind,
        member: &'static str,
        cause: Cause,
    },
    /// The map or list at the end of a path does not exist.
    #[error("{kind} operation does not apply: {what}: {path}: missing value")]
    DoesNotApply {
        kind: Kind,
        what: &'static str,
        path: String,
    },
    /// The last part of a path does not fit its map or list.
    #[error("error in {kind} for {member}: '{path}': {cause}")]
    At {
        kind: Kind,
        member: &'static str,
        path: String,
        cause: Cause,
    },
    /// A copied value cannot be added.
    #[error("error while adding value during copy: {0}")]
    Copied(Cause),
    /// The copies of a patch are too large together.
    #[error(
        "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_BYTES}"
    )]
    CopiesTooLarge { copied: usize },
    /// A scalar would replace the whole object.
    #[error("replace operation value must be object or array")]
    BadRoot,
    /// A value differs from the expected one.
    #[error("testing value {path} failed: test failed")]
    TestFailed { path: String },
}

/// A problem with a path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    #[error("missing value")]
    Missing,
    #[error("operation missing path field: missing value")]
    NoPath,
    #[error("operation, missing from field: missing value")]
    NoFrom,
    #[error("json: cannot unmarshal {0} into Go value of type string")]
    NotAString(&'static str),
    #[error("Unable to remove nonexistent key: {0}: missing value")]
    NoKey(String),
    #[error("Unable to access invalid index: {0}: invalid index referenced")]
    InvalidIndex(i64),
    #[error("strconv.Atoi: parsing {0:?}: invalid syntax")]
    NotANumber(String),
    #[error("strconv.Atoi: parsing {0:?}: value out of range")]
    OutOfRange(String),
    #[error("value was not a proper array index: '{index}': {cause}")]
    NotAnIndex { index: String, cause: Box<Cause> },
}

impl OperationError {
    pub(super) fn undecoded(kind: Kind, member: &'static str, cause: Cause) -> Self {
        Self::Undecoded { kind, member, cause }
    }

    pub(super) fn no_path(kind: Kind, path: &str) -> Self {
        let path = shorten(path.to_owned());
        Self::DoesNotApply {
            kind,
            what: match kind {
                Kind::Test => "is missing path",
                _ => "doc is missing path",
            },
            path: match kind {
                Kind::Add | Kind::Remove => format!("\"{path}\""),
                _ => path,
            },
        }
    }

    pub(super) fn no_key(path: &str) -> Self {
        Self::DoesNotApply {
            kind: Kind::Replace,
            what: "doc is missing key",
            path: shorten(path.to_owned()),
        }
    }

    pub(super) fn no_from(kind: Kind, from: &str) -> Self {
        Self::DoesNotApply {
            kind,
            what: "doc is missing from path",
            path: shorten(from.to_owned()),
        }
    }

    pub(super) fn no_destination(kind: Kind, path: &str) -> Self {
        Self::DoesNotApply {
            kind,
            what: "doc is missing destination path",
            path: shorten(path.to_owned()),
        }
    }

    pub(super) fn at(kind: Kind, path: &str, cause: Cause) -> Self {
        Self::At {
            kind,
            member: "path",
            path: shorten(path.to_owned()),
            cause,
        }
    }

    pub(super) fn copy_from(from: &str, cause: Cause) -> Self {
        Self::At {
            kind: Kind::Copy,
            member: "from",
            path: shorten(from.to_owned()),
            cause,
        }
    }

    pub(super) fn failed_test(path: &str) -> Self {
        Self::TestFailed {
            path: shorten(path.to_owned()),
        }
    }
}
