//! The outcome of a three-way patch.

use serde_json::Value;

/// The patch that `apply` sends, and the resulting object.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// The patch of the current object, as kubectl sends it. It is empty if there is nothing to change, and contains
    /// only `$setElementOrder` if the current object merely has more list elements than the configuration.
    pub patch: Value,
    /// The current object with the patch applied.
    pub result: Value,
}
