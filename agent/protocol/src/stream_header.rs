//! The framing of the first message on a data stream: a big-endian u16 length and a `StreamHeader`.

use protobuf::{Enum, Message};

use crate::messages::{StreamHeader, StreamKind};

/// Longest encoded header that is accepted, bytes: a kind and a container id of 128 bytes fit comfortably.
pub const MAX_STREAM_HEADER_BYTES: usize = 256;

/// Why a stream header was refused.
#[derive(Debug, thiserror::Error)]
pub enum StreamHeaderError {
    /// The encoded header exceeds [`MAX_STREAM_HEADER_BYTES`].
    #[error("stream header of {0} bytes exceeds the limit of {MAX_STREAM_HEADER_BYTES}")]
    TooLong(usize),
    /// The bytes are not a `StreamHeader`.
    #[error("stream header is malformed")]
    Malformed(#[source] protobuf::Error),
    /// The kind is unknown or unspecified.
    #[error("stream header has the unknown kind {0}")]
    UnknownKind(i32),
}

/// Encodes the header with its length prefix, ready to be written to a new connection.
///
/// # Errors
/// [`StreamHeaderError::TooLong`] when the container id is too long.
pub fn encode_stream_header(kind: StreamKind, container_id: &str) -> Result<Vec<u8>, StreamHeaderError> {
    let header = StreamHeader {
        kind: kind.into(),
        container_id: container_id.to_owned(),
        ..Default::default()
    };
    let body = header.write_to_bytes().map_err(StreamHeaderError::Malformed)?;
    let length = u16::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_STREAM_HEADER_BYTES)
        .ok_or(StreamHeaderError::TooLong(body.len()))?;
    let mut frame = Vec::with_capacity(body.len() + 2);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// Decodes the body of a header (without its length prefix).
///
/// # Errors
/// See [`StreamHeaderError`]; never panics, whatever the bytes.
pub fn decode_stream_header(body: &[u8]) -> Result<(StreamKind, String), StreamHeaderError> {
    if body.len() > MAX_STREAM_HEADER_BYTES {
        return Err(StreamHeaderError::TooLong(body.len()));
    }
    let header = StreamHeader::parse_from_bytes(body).map_err(StreamHeaderError::Malformed)?;
    match header.kind.enum_value() {
        Ok(StreamKind::STREAM_KIND_UNSPECIFIED) => Err(StreamHeaderError::UnknownKind(
            StreamKind::STREAM_KIND_UNSPECIFIED.value(),
        )),
        Ok(kind) => Ok((kind, header.container_id)),
        Err(number) => Err(StreamHeaderError::UnknownKind(number)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_survives_the_round_trip() {
        let frame = encode_stream_header(StreamKind::STREAM_KIND_STDOUT, "web-0").unwrap();
        let length = usize::from(u16::from_be_bytes([frame[0], frame[1]]));
        assert_eq!(length, frame.len() - 2);
        let (kind, id) = decode_stream_header(&frame[2..]).unwrap();
        assert_eq!((kind, id.as_str()), (StreamKind::STREAM_KIND_STDOUT, "web-0"));
    }

    #[test]
    fn an_unspecified_kind_is_refused() {
        assert!(matches!(
            decode_stream_header(&[]),
            Err(StreamHeaderError::UnknownKind(0))
        ));
    }

    #[test]
    fn a_container_id_that_does_not_fit_is_refused() {
        let id = "x".repeat(MAX_STREAM_HEADER_BYTES + 1);
        assert!(matches!(
            encode_stream_header(StreamKind::STREAM_KIND_STDIN, &id),
            Err(StreamHeaderError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_stream_header(&body);
        }
    }
}
