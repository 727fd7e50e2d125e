//! The fields that identify an object.

use serde_json::Value;

use super::error::PatchError;

/// Refuses a patch of a merge or strategic kind that changes `apiVersion`, `kind` or `metadata.name`, as `kubectl apply`
/// and `kubectl edit` do.
pub fn check_identity(patch: &Value) -> Result<(), PatchError> {
    let changed = ["/apiVersion", "/kind", "/metadata/name"]
        .iter()
        .any(|field| patch.pointer(field).is_some());
    if changed {
        return Err(PatchError::IdentityChanged);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_that_change_the_identity_are_refused() {
        for patch in [
            json!({"apiVersion": "v2"}),
            json!({"kind": null}),
            json!({"metadata": {"name": "b"}}),
        ] {
            assert_eq!(check_identity(&patch), Err(PatchError::IdentityChanged), "{patch}");
        }
    }

    #[test]
    fn other_patches_pass() {
        for patch in [
            json!({}),
            json!({"metadata": {"labels": {"name": "b"}}}),
            json!({"metadata": null, "spec": {"kind": 1}}),
        ] {
            assert_eq!(check_identity(&patch), Ok(()), "{patch}");
        }
    }
}
