//! Bounds on objects and patches. Both come from users and API clients.

use serde_json::{Number, Value};

/// Maximum size of an object or a patch as compact JSON, in bytes: the API server's limit for requests.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// Maximum nesting of an object or a patch. `serde_json` reads up to this depth, so a patched object can be read again.
pub const MAX_DEPTH: usize = 127;

/// Maximum number of operations in a JSON patch, as in the API server.
pub const MAX_OPERATIONS: usize = 10_000;

/// The value that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Document {
    /// The object before the patch.
    Object,
    /// The patch.
    Patch,
    /// The object after the patch.
    Result,
}

impl std::fmt::Display for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Object => "object",
            Self::Patch => "patch",
            Self::Result => "patched object",
        })
    }
}

/// The size of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// Length as compact JSON.
    pub bytes: usize,
    /// Levels of lists and maps: 0 for a scalar, 1 for an empty map.
    pub depth: usize,
    /// Number of values.
    pub values: usize,
}

/// The extent of a value, or `None` if it is deeper than `MAX_DEPTH`. Looks no deeper, so the recursion is bounded.
pub(crate) fn extent(value: &Value) -> Option<Extent> {
    fn add(value: &Value, depth: usize, extent: &mut Extent) -> Option<()> {
        extent.values += 1;
        match value {
            Value::Null => extent.bytes += 4,
            Value::Bool(value) => extent.bytes += if *value { 4 } else { 5 },
            Value::Number(number) => extent.bytes += number_len(number),
            Value::String(text) => extent.bytes += quoted_len(text),
            Value::Array(elements) => {
                enter(depth, elements.len(), extent)?;
                for element in elements {
                    add(element, depth + 1, extent)?;
                }
            }
            Value::Object(fields) => {
                enter(depth, fields.len(), extent)?;
                for (name, field) in fields {
                    extent.bytes += quoted_len(name) + 1;
                    add(field, depth + 1, extent)?;
                }
            }
        }
        Some(())
    }

    /// Adds the brackets and commas of a list or map that is `depth` levels deep.
    fn enter(depth: usize, len: usize, extent: &mut Extent) -> Option<()> {
        if depth >= MAX_DEPTH {
            return None;
        }
        extent.depth = extent.depth.max(depth + 1);
        extent.bytes += 2 + len.saturating_sub(1);
        Some(())
    }

    let mut extent = Extent {
        bytes: 0,
        depth: 0,
        values: 0,
    };
    add(value, 0, &mut extent)?;
    Some(extent)
}

fn number_len(number: &Number) -> usize {
    let digits = |value: u64| value.checked_ilog10().map_or(1, |log| log as usize + 1);
    match (number.as_u64(), number.as_i64()) {
        (Some(value), _) => digits(value),
        (None, Some(value)) => 1 + digits(value.unsigned_abs()),
        (None, None) => number.to_string().len(),
    }
}

/// The length of a string in JSON, with its quotes.
fn quoted_len(text: &str) -> usize {
    let escapes: usize = text
        .bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 1,
            0x00..0x20 => 5,
            _ => 0,
        })
        .sum();
    text.len() + escapes + 2
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_extent_counts_bytes_as_serde_json_writes_them() {
        for value in [
            json!(null),
            json!(true),
            json!(false),
            json!([0, 9, 10, 99, 100, u64::MAX, -1, -10, i64::MIN]),
            json!(1.5),
            json!("é\"\\\n\u{1}\u{7f}/"),
            json!([]),
            json!({}),
            json!({"a": [1, {"b\t": null}], "c": [[]]}),
        ] {
            assert_eq!(
                extent(&value).unwrap().bytes,
                serde_json::to_vec(&value).unwrap().len(),
                "{value}"
            );
        }
    }

    #[test]
    fn values_as_deep_as_the_limit_can_be_read_again_and_deeper_ones_are_refused() {
        let nested = |depth| (0..depth).fold(json!(1), |value, _| json!([value]));
        let deepest = nested(MAX_DEPTH);
        assert_eq!(extent(&deepest).unwrap().depth, MAX_DEPTH);
        assert_eq!(serde_json::from_str::<Value>(&deepest.to_string()).unwrap(), deepest);
        assert_eq!(extent(&nested(MAX_DEPTH + 1)), None);
    }
}
