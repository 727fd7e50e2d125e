//! The header of a frame on microkube's own stream sockets: one byte for its kind, and the length of its payload as a big-endian u32. Which kinds
//! there are, and how long a payload may be, is each protocol's.

/// Length of the header, bytes.
pub const HEADER_BYTES: usize = 5;

/// The header of a frame.
#[must_use]
pub fn encode(kind: u8, length: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind, a, b, c, d]
}

/// Kind and length of the payload, which is not to be trusted.
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
    fn a_header_is_the_same_on_every_machine() {
        assert_eq!(encode(7, 0x0102_0304), [7, 1, 2, 3, 4]);
        assert_eq!(decode([7, 1, 2, 3, 4]), (7, 0x0102_0304));
    }
}
