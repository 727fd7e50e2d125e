//! The header of frames on microkube's own stream sockets: one byte for the kind, and the length of the payload as a
//! big-endian u32. Each protocol defines its kinds and its maximum length.

/// Length of the header, in bytes.
pub const HEADER_BYTES: usize = 5;

/// Encodes a header.
#[must_use]
pub fn encode(kind: u8, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind, a, b, c, d]
}

/// Decodes kind and payload length. The length must be checked.
#[must_use]
pub fn decode(header: [u8; HEADER_BYTES]) -> (u8, usize) {
    let [kind, length @ ..] = header;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    (kind, length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_encoded_in_big_endian() {
        assert_eq!(encode(7, 0x0102_0304), [7, 1, 2, 3, 4]);
        assert_eq!(decode([7, 1, 2, 3, 4]), (7, 0x0102_0304));
    }
}
