//! Defaults of strings.

/// Sets a default. Go cannot distinguish an empty string from a missing one, so an explicit empty string gets the
/// default too.
pub(super) fn fill(value: &mut Option<String>, default: &str) {
    if value.as_deref().unwrap_or_default().is_empty() {
        *value = Some(default.to_owned());
    }
}
