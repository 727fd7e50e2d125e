//! What the fuzz target `health_response` calls.

use super::health;

/// Reads the bytes as a message of the health protocol and as the text of an error. Panics if something grows.
pub fn health_response(bytes: &[u8]) {
    let framed = bytes.len().min(health::PREFIX_BYTES + health::MESSAGE_MAX_BYTES);
    if let Ok(status) = health::response(&bytes[..framed]) {
        assert!(!status.name().is_empty());
    }
    // A byte that is no text becomes one character of three bytes.
    assert!(health::decode_message(bytes).len() <= 3 * bytes.len());
}
