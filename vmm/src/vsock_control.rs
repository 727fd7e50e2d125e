//! How vsock connections appear on the host: messages on a `SOCK_SEQPACKET` unix socket that carry file descriptors.
//!
//! One packet is one message: one byte of kind and a big-endian u32 vsock port, with one stream socket attached
//! (`SCM_RIGHTS`) where the table says so.
//!
//! | direction | kind | descriptor | meaning |
//! |---|---|---|---|
//! | client → VMM | [`CONNECT`] | the VMM's end of a socket pair | open a connection to this port of the guest; the end is closed if the guest refuses |
//! | VMM → client | [`INCOMING`] | the client's end of a socket pair | the guest connected to this port of the host |
//!
//! Closing one's end, or shutting it down for writing, does the same to the guest's socket, and the other way round. A
//! connection of the guest while no client is there is refused (`VIRTIO_VSOCK_OP_RST`).
//!
//! A supervisor that takes over a machine speaks the version that its VMM was started in ([`crate::config::PROTOCOL_VERSION`]); these messages
//! are the same in versions 0 and 1.

/// Client → VMM: connect to a port of the guest.
pub const CONNECT: u8 = 1;

/// VMM → client: the guest connected to a port of the host.
pub const INCOMING: u8 = 2;

/// Length of every message, bytes.
pub const MESSAGE_BYTES: usize = 5;

/// Encodes a message.
#[must_use]
pub fn encode(kind: u8, port: u32) -> [u8; MESSAGE_BYTES] {
    let [a, b, c, d] = port.to_be_bytes();
    [kind, a, b, c, d]
}

/// Decodes a message into its kind and port; `None` when it has another length.
#[must_use]
pub fn decode(message: &[u8]) -> Option<(u8, u32)> {
    let [kind, a, b, c, d] = *message else { return None };
    Some((kind, u32::from_be_bytes([a, b, c, d])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_round_trip() {
        assert_eq!(decode(&encode(INCOMING, 1025)), Some((INCOMING, 1025)));
    }

    #[test]
    fn a_message_of_another_length_is_refused() {
        assert_eq!(decode(&[CONNECT, 0, 0, 4]), None);
        assert_eq!(decode(&[CONNECT, 0, 0, 4, 0, 0]), None);
    }
}
