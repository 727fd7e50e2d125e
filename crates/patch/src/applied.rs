//! The outcome of a three-way patch.

use serde_json::Value;

/// What `apply` sends, and what becomes of the object.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The patch of the current object, as kubectl sends it. It is empty if there is nothing to change. It has nothing
    /// but `$setElementOrder` if the current object only has more list elements than the configuration.
    pub patch: Value,
    /// The current object with the patch applied.
    pub result: Value,
}
