//! Why a patch cannot be made or applied. Messages of the Kubernetes libraries are kept to the letter.

use super::json_patch::OperationError;
use super::limits::{Document, MAX_BYTES, MAX_DEPTH, MAX_OPERATIONS};

/// Why a patch cannot be made or applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// An object or a patch is not a JSON object.
    #[error("invalid JSON document")]
    NotAnObject,
    /// An object or a patch is too large.
    #[error("the {document} has {bytes} bytes, and the limit is {MAX_BYTES}; make it smaller")]
    TooLarge { document: Document, bytes: usize },
    /// An object or a patch is nested too deeply.
    #[error("the {document} is nested more than {MAX_DEPTH} levels deep; use fewer levels")]
    TooDeep { document: Document },
    /// A merge patch of an object is `null`.
    #[error("Invalid JSON Patch")]
    NullMergePatch,
    /// A merge patch of an object is a list or a scalar; with JSON's name of the type.
    #[error("error decoding patch: json: cannot unmarshal {received} into Go value of type map[string]interface {{}}")]
    MergePatchNotAMap { received: &'static str },

    /// A JSON patch is not a list of operations.
    #[error("error decoding patch: a JSON patch is a list of operations, each an object")]
    NotOperations,
    /// A JSON patch has too many operations.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// Together the operations of a JSON patch move too many values.
    #[error("the JSON patch moves too many values; use fewer operations on large lists and maps")]
    TooMuchWork,
    /// An operation of a JSON patch does not apply.
    #[error(transparent)]
    Operation(#[from] OperationError),

    /// A merged list contains a list.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// A `$deleteFromPrimitiveList` directive is malformed.
    #[error("invalid patch format of primitive list")]
    BadPrimitiveList,
    /// A `$retainKeys` directive is malformed, or misses a field of its patch.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    /// A `$setElementOrder` directive is malformed.
    #[error("invalid patch format of setElementOrder list")]
    BadSetElementOrder,
    /// An item of a list merged by key has no such key.
    #[error("map: {map} does not contain declared merge key: {key}")]
    NoMergeKey { map: String, key: String },
    /// A value has another type than its directive or its field; with Go's names of the types.
    #[error("expected a {expected}, but received a {received}")]
    WrongType {
        expected: &'static str,
        received: &'static str,
    },
    /// `$patch` has an unknown value.
    #[error("unknown patch type: {directive} in map: {map}")]
    UnknownDirective { directive: String, map: String },
    /// An item of a list has `$patch: merge`.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirective,
    /// The items of a patch are not in the order of its `$setElementOrder` directive.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    WrongOrder { patch: String, order: String },
    /// A merged list has elements of different types.
    #[error("list element types are not identical: {lists}")]
    MixedElements { lists: String },
    /// A list of primitive values contains maps.
    #[error("cannot merge lists without merge key for string")]
    ListWithoutMergeKey,
    /// A patch changes what identifies the object.
    #[error("At least one of apiVersion, kind and name was changed")]
    IdentityChanged,
}

impl PatchError {
    /// The HTTP status with which the API server answers.
    pub fn status(&self) -> u16 {
        match self {
            Self::NotAnObject
            | Self::TooDeep { .. }
            | Self::NullMergePatch
            | Self::MergePatchNotAMap { .. }
            | Self::NotOperations
            | Self::BadPrimitiveList
            | Self::BadRetainKeys
            | Self::BadSetElementOrder
            | Self::IdentityChanged => 400,
            Self::TooLarge { .. } | Self::TooManyOperations(_) | Self::TooMuchWork => 413,
            Self::Operation(_) | Self::ListOfLists => 422,
            Self::NoMergeKey { .. }
            | Self::WrongType { .. }
            | Self::UnknownDirective { .. }
            | Self::MergeDirective
            | Self::WrongOrder { .. }
            | Self::MixedElements { .. }
            | Self::ListWithoutMergeKey => 500,
        }
    }
}
