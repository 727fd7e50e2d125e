//! The types of patches that clients send.

use std::fmt;

use microkube_manifest::kinds::Kind;
use microkube_patch::{PatchError, json_patch, kinds, merge_patch, strategic};
use serde_json::Value;

/// A patch of an object. `Debug` does not show its content, which may be secret.
#[derive(Clone, PartialEq)]
pub enum Patch {
    Strategic(Value),
    Merge(Value),
    Json(Value),
}

impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strategic(_) => "Strategic",
            Self::Merge(_) => "Merge",
            Self::Json(_) => "Json",
        })
    }
}

impl Patch {
    /// The object after the patch.
    ///
    /// # Errors
    /// If the patch does not apply, or a limit is exceeded.
    pub fn apply(&self, kind: &Kind, object: &Value) -> Result<Value, PatchError> {
        match self {
            Self::Strategic(patch) => match kinds::schema_of(&kind.api_version(), kind.kind) {
                Some(schema) => strategic::apply(object, patch, schema),
                None => merge_patch::apply(object, patch),
            },
            Self::Merge(patch) => {
                merge_patch::check_is_map(patch)?;
                merge_patch::apply(object, patch)
            }
            Self::Json(patch) => json_patch::apply(object, patch),
        }
    }
}
