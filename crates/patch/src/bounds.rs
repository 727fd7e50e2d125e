//! Refuses values that exceed the limits.

use serde_json::Value;

use super::error::PatchError;
use super::limits::{Document, MAX_BYTES, extent};

/// Refuses a value that exceeds a limit.
pub(crate) fn check(document: Document, value: &Value) -> Result<(), PatchError> {
    let extent = extent(value).ok_or(PatchError::TooDeep { document })?;
    if extent.bytes > MAX_BYTES {
        return Err(PatchError::TooLarge {
            document,
            bytes: extent.bytes,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::limits::MAX_DEPTH;

    #[test]
    fn values_deeper_than_the_limit_are_refused() {
        let nested = (0..MAX_DEPTH).fold(json!(1), |value, _| json!([value]));
        assert_eq!(check(Document::Patch, &nested), Ok(()));
        let error = check(Document::Patch, &json!([nested])).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the patch is nested more than 127 levels deep; use fewer levels"
        );
    }

    #[test]
    fn values_larger_than_the_limit_are_refused() {
        let text = |bytes: usize| Value::String("x".repeat(bytes - 2));
        assert!(check(Document::Object, &text(MAX_BYTES)).is_ok());
        let error = check(Document::Result, &text(MAX_BYTES + 1)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the patched object has 3145729 bytes, and the limit is 3145728; make it smaller"
        );
    }
}
