//! A JSON object.

/// The fields of a map.
pub(crate) type Object = serde_json::Map<String, serde_json::Value>;
