//! The framing of the first message on a data stream: a big-endian u16 length and a `StreamHeader`.

use protobuf::{Enum, Message};

use crate::messages::{StreamHeader, StreamKind};

/// Maximum length of an encoded header in bytes: enough for a kind, an id of 128 bytes and a position.
pub const MAX_STREAM_HEADER_BYTES: usize = 256;

/// One of the standard streams of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stdio {
    /// Descriptor 0; the host writes.
    Stdin,
    /// Descriptor 1; the agent writes.
    Stdout,
    /// Descriptor 2; the agent writes.
    Stderr,
}

/// The content of a data stream, as stated in its header.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DataStream {
    /// The guest kernel's log.
    Log,
    /// A standard stream of a container.
    Container {
        /// The container's id.
        id: String,
        /// One of its streams.
        stdio: Stdio,
        /// Position in the stream of the oldest byte that the agent still has.
        position_bytes: u64,
    },
    /// A standard stream of an exec process.
    Process {
        /// The process's id.
        id: String,
        /// One of its streams.
        stdio: Stdio,
    },
    /// A connection to a port of the Pod.
    Port {
        /// The connection's id.
        id: String,
    },
}

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
    #[error("stream header has unknown kind {0}")]
    UnknownKind(i32),
    /// A log with an owner, or another stream that does not have exactly one owner, of the right kind.
    #[error("stream header of kind {0:?} lacks an ID")]
    WrongOwner(StreamKind),
}

impl From<Stdio> for StreamKind {
    fn from(stdio: Stdio) -> Self {
        match stdio {
            Stdio::Stdin => Self::STREAM_KIND_STDIN,
            Stdio::Stdout => Self::STREAM_KIND_STDOUT,
            Stdio::Stderr => Self::STREAM_KIND_STDERR,
        }
    }
}

/// Encodes the header with its length prefix, ready to be written to a new connection.
///
/// # Errors
/// [`StreamHeaderError::TooLong`] when the id is too long.
pub fn encode_stream_header(stream: &DataStream) -> Result<Vec<u8>, StreamHeaderError> {
    let mut header = StreamHeader::default();
    match stream {
        DataStream::Log => header.kind = StreamKind::STREAM_KIND_LOG.into(),
        DataStream::Container {
            id,
            stdio,
            position_bytes,
        } => {
            header.kind = StreamKind::from(*stdio).into();
            header.container_id.clone_from(id);
            header.position_bytes = *position_bytes;
        }
        DataStream::Process { id, stdio } => {
            header.kind = StreamKind::from(*stdio).into();
            header.process_id.clone_from(id);
        }
        DataStream::Port { id } => {
            header.kind = StreamKind::STREAM_KIND_PORT.into();
            header.connection_id.clone_from(id);
        }
    }
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
/// See [`StreamHeaderError`]. Does not panic for any bytes.
pub fn decode_stream_header(body: &[u8]) -> Result<DataStream, StreamHeaderError> {
    if body.len() > MAX_STREAM_HEADER_BYTES {
        return Err(StreamHeaderError::TooLong(body.len()));
    }
    let header = StreamHeader::parse_from_bytes(body).map_err(StreamHeaderError::Malformed)?;
    let kind = header.kind.enum_value().map_err(StreamHeaderError::UnknownKind)?;
    let stdio = match kind {
        StreamKind::STREAM_KIND_STDIN => Some(Stdio::Stdin),
        StreamKind::STREAM_KIND_STDOUT => Some(Stdio::Stdout),
        StreamKind::STREAM_KIND_STDERR => Some(Stdio::Stderr),
        StreamKind::STREAM_KIND_LOG | StreamKind::STREAM_KIND_PORT => None,
        StreamKind::STREAM_KIND_UNSPECIFIED => return Err(StreamHeaderError::UnknownKind(kind.value())),
    };
    let owned = |id: &str| !id.is_empty();
    match (
        stdio,
        header.container_id.as_str(),
        header.process_id.as_str(),
        header.connection_id.as_str(),
    ) {
        (None, "", "", "") if kind == StreamKind::STREAM_KIND_LOG => Ok(DataStream::Log),
        (None, "", "", id) if kind == StreamKind::STREAM_KIND_PORT && owned(id) => {
            Ok(DataStream::Port { id: id.to_owned() })
        }
        (Some(stdio), id, "", "") if owned(id) => Ok(DataStream::Container {
            id: id.to_owned(),
            stdio,
            position_bytes: header.position_bytes,
        }),
        (Some(stdio), "", id, "") if owned(id) => Ok(DataStream::Process {
            id: id.to_owned(),
            stdio,
        }),
        _ => Err(StreamHeaderError::WrongOwner(kind)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stdio() -> impl Strategy<Value = Stdio> {
        prop_oneof![Just(Stdio::Stdin), Just(Stdio::Stdout), Just(Stdio::Stderr)]
    }

    fn data_stream() -> impl Strategy<Value = DataStream> {
        let id = "[a-z0-9-]{1,128}";
        prop_oneof![
            Just(DataStream::Log),
            (id, stdio(), any::<u64>()).prop_map(|(id, stdio, position_bytes)| DataStream::Container {
                id,
                stdio,
                position_bytes
            }),
            (id, stdio()).prop_map(|(id, stdio)| DataStream::Process { id, stdio }),
            id.prop_map(|id| DataStream::Port { id }),
        ]
    }

    fn header(kind: StreamKind, container_id: &str, process_id: &str, connection_id: &str) -> Vec<u8> {
        let header = StreamHeader {
            kind: kind.into(),
            container_id: container_id.to_owned(),
            process_id: process_id.to_owned(),
            connection_id: connection_id.to_owned(),
            ..Default::default()
        };
        header.write_to_bytes().unwrap()
    }

    #[test]
    fn an_unspecified_kind_is_refused() {
        assert!(matches!(
            decode_stream_header(&[]),
            Err(StreamHeaderError::UnknownKind(0))
        ));
    }

    #[test]
    fn a_stream_has_exactly_one_owner_and_the_log_has_none() {
        for body in [
            header(StreamKind::STREAM_KIND_STDOUT, "", "", ""),
            header(StreamKind::STREAM_KIND_STDOUT, "web-0", "exec-1", ""),
            header(StreamKind::STREAM_KIND_STDOUT, "web-0", "", "c-1"),
            header(StreamKind::STREAM_KIND_STDOUT, "", "", "c-1"),
            header(StreamKind::STREAM_KIND_LOG, "web-0", "", ""),
            header(StreamKind::STREAM_KIND_LOG, "", "exec-1", ""),
            header(StreamKind::STREAM_KIND_LOG, "", "", "c-1"),
            header(StreamKind::STREAM_KIND_PORT, "", "", ""),
            header(StreamKind::STREAM_KIND_PORT, "web-0", "", "c-1"),
            header(StreamKind::STREAM_KIND_PORT, "", "exec-1", ""),
        ] {
            assert!(matches!(
                decode_stream_header(&body),
                Err(StreamHeaderError::WrongOwner(_))
            ));
        }
    }

    #[test]
    fn an_overlong_id_is_refused() {
        let stream = DataStream::Process {
            id: "x".repeat(MAX_STREAM_HEADER_BYTES + 1),
            stdio: Stdio::Stdin,
        };
        assert!(matches!(
            encode_stream_header(&stream),
            Err(StreamHeaderError::TooLong(_))
        ));
    }

    proptest! {
        #[test]
        fn a_header_survives_the_round_trip(stream in data_stream()) {
            let frame = encode_stream_header(&stream).unwrap();
            let (length, body) = frame.split_first_chunk().unwrap();
            prop_assert_eq!(usize::from(u16::from_be_bytes(*length)), body.len());
            prop_assert_eq!(decode_stream_header(body).unwrap(), stream);
        }

        #[test]
        fn any_bytes_decode_or_are_refused_without_a_panic(body in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode_stream_header(&body);
        }
    }
}
