//! Entry point of the fuzz target `health_response`.

use super::health;

/// Parses the bytes as a message of the health protocol and as an error text. Panics if a result exceeds its limits.
pub fn health_response(bytes: &[u8]) {
    let framed = bytes.len().min(health::PREFIX_BYTES + health::MESSAGE_MAX_BYTES);
    if let Ok(status) = health::response(&bytes[..framed]) {
        assert!(!status.name().is_empty());
    }
    // An invalid byte becomes one character of three bytes.
    assert!(health::decode_message(bytes).len() <= 3 * bytes.len());
}
