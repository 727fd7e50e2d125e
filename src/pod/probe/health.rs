//! The messages of `grpc.health.v1` with gRPC's framing. Responses come from an attacker.

use protobuf::{CodedInputStream, CodedOutputStream};

/// Longest accepted message; a normal answer is two bytes long. The limit is low also because nested groups are parsed
/// recursively.
pub(super) const MESSAGE_MAX_BYTES: usize = 256;

/// Length of the prefix of a message: a compression flag, and the length.
pub(super) const PREFIX_BYTES: usize = 5;

const SERVICE_FIELD: u32 = 1;
/// Field 1, a number.
const STATUS_TAG: u32 = 1 << 3;

/// An error while encoding or decoding a message. Some texts are those of Go's client.
#[derive(Debug, thiserror::Error)]
pub(super) enum HealthError {
    /// The request cannot be encoded.
    #[error(transparent)]
    Encode(protobuf::Error),
    /// The service's name does not fit into a message.
    #[error("the service name is too long")]
    NameTooLong,
    #[error("EOF")]
    Empty,
    /// The response ends before its message begins.
    #[error("unexpected EOF")]
    Truncated,
    /// The response is compressed.
    #[error("the message is compressed, although compression was not requested")]
    Compressed,
    /// The response's length differs from the stated one.
    #[error("the message has {received} bytes instead of {stated}")]
    Length { received: usize, stated: usize },
    /// The response is not a valid message.
    #[error("failed to unmarshal the received message: {0}")]
    Decode(protobuf::Error),
}

/// `HealthCheckResponse.ServingStatus`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServingStatus {
    Serving,
    Other(i32),
}

impl ServingStatus {
    fn of(number: i32) -> Self {
        if number == 1 {
            Self::Serving
        } else {
            Self::Other(number)
        }
    }

    pub(super) fn name(self) -> String {
        match self {
            Self::Serving => "SERVING".to_owned(),
            Self::Other(0) => "UNKNOWN".to_owned(),
            Self::Other(2) => "NOT_SERVING".to_owned(),
            Self::Other(3) => "SERVICE_UNKNOWN".to_owned(),
            Self::Other(number) => number.to_string(),
        }
    }
}

/// A `HealthCheckRequest` with its prefix.
pub(super) fn request(service: &str) -> Result<Vec<u8>, HealthError> {
    let mut message = Vec::new();
    if !service.is_empty() {
        let mut output = CodedOutputStream::vec(&mut message);
        let written = output
            .write_string(SERVICE_FIELD, service)
            .and_then(|()| output.flush());
        drop(output);
        written.map_err(HealthError::Encode)?;
    }
    let length = u32::try_from(message.len()).map_err(|_| HealthError::NameTooLong)?;
    let mut framed = vec![0];
    framed.extend(length.to_be_bytes());
    framed.append(&mut message);
    Ok(framed)
}

/// The status in a prefixed `HealthCheckResponse`. `framed` is everything that the server sent.
pub(super) fn response(framed: &[u8]) -> Result<ServingStatus, HealthError> {
    let Some((prefix, message)) = framed.split_first_chunk::<PREFIX_BYTES>() else {
        return Err(match framed {
            [] => HealthError::Empty,
            _ => HealthError::Truncated,
        });
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err(HealthError::Compressed);
    }
    let stated = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    let received = message.len();
    if stated != received {
        return Err(HealthError::Length { received, stated });
    }
    let mut status = 0;
    let mut input = CodedInputStream::from_bytes(message);
    while let Some(tag) = input.read_raw_tag_or_eof().map_err(HealthError::Decode)? {
        if tag == STATUS_TAG {
            status = input.read_int32().map_err(HealthError::Decode)?;
        } else {
            protobuf::rt::skip_field_for_tag(tag, &mut input).map_err(HealthError::Decode)?;
        }
    }
    Ok(ServingStatus::of(status))
}

/// `grpc-message` is percent-encoded text.
pub(super) fn decode_message(encoded: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut rest = encoded;
    while let Some((first, after)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pair = after.split_first_chunk::<2>();
        let escaped = pair.and_then(|([high, low], after)| Some((digit(*high)? << 4 | digit(*low)?, after)));
        match escaped {
            Some((byte, after)) if *first == b'%' => {
                bytes.push(byte);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_match_the_grpc_health_protocol() {
        assert_eq!(request("").unwrap(), [0, 0, 0, 0, 0]);
        assert_eq!(request("db").unwrap(), [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 1]).unwrap(), ServingStatus::Serving);
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 2]).unwrap().name(), "NOT_SERVING");
        assert_eq!(response(&[0, 0, 0, 0, 0]).unwrap().name(), "UNKNOWN");
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 3]).unwrap().name(), "SERVICE_UNKNOWN");
        assert_eq!(response(&[0, 0, 0, 0, 2, 8, 9]).unwrap().name(), "9");
        // A field from a later version of the protocol is skipped.
        assert_eq!(
            response(&[0, 0, 0, 0, 5, 0x12, 1, 7, 8, 1]).unwrap(),
            ServingStatus::Serving
        );
        for (wrong, error) in [
            (&[][..], "EOF"),
            (&[0, 0], "unexpected EOF"),
            (
                &[1, 0, 0, 0, 2, 8, 1],
                "the message is compressed, although compression was not requested",
            ),
            (&[0, 0, 0, 0, 3, 8, 1], "the message has 2 bytes instead of 3"),
            (
                &[0, 0xff, 0xff, 0xff, 0xff],
                "the message has 0 bytes instead of 4294967295",
            ),
            (&[0, 0, 0, 0, 1, 8], "failed to unmarshal the received message: "),
        ] {
            let told = response(wrong).unwrap_err().to_string();
            assert!(told.starts_with(error), "{wrong:?}: {told}");
        }
        assert_eq!(decode_message(b"no%20such%2520 service%"), "no such%20 service%");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_response_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64), framed in any::<bool>()) {
            let mut message = bytes;
            if framed {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                message.splice(0..0, [0].into_iter().chain(length));
            }
            let _ = response(&message);
            prop_assert!(decode_message(&message).len() <= 3 * message.len());
        }

        #[test]
        fn every_status_is_read(number in any::<i32>(), before in "[a-z]{0,9}") {
            let mut message = Vec::new();
            let mut output = CodedOutputStream::vec(&mut message);
            output.write_string(5, &before).unwrap();
            output.write_int32(1, number).unwrap();
            output.flush().unwrap();
            drop(output);
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            message.splice(0..0, [0].into_iter().chain(length));
            prop_assert_eq!(response(&message).unwrap(), ServingStatus::of(number));
        }
    }
}
