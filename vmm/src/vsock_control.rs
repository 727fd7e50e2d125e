//! How vsock connections appear on the host: messages that carry file descriptors, on a `SOCK_SEQPACKET` unix socket.
//!
//! One packet is one message: one byte of kind and a big-endian u32, with one descriptor attached (`SCM_RIGHTS`). The
//! number is a vsock port unless the table says otherwise.
//!
//! | direction | kind | descriptor | meaning |
//! |---|---|---|---|
//! | client → VMM | [`CONNECT`] | the VMM's end of a socket pair | open a connection to this port of the guest; the end is closed if the guest refuses |
//! | client → VMM | [`GROW_DISK`] | a file, opened read-only | append it to the VM's last read-only disk; the number is its length in blocks of [`BLOCK_BYTES`]. The VMM sends no answer: the guest sees the larger disk. Since version 2. |
//! | VMM → client | [`INCOMING`] | the client's end of a socket pair | the guest connected to this port of the host |
//!
//! Closing an end, or shutting it down for writing, does the same to the guest's socket, and vice versa. While there is
//! no client, connections from the guest are refused (`VIRTIO_VSOCK_OP_RST`).
//!
//! A supervisor that takes over a VM uses the version with which its VMM was started
//! ([`crate::config::PROTOCOL_VERSION`]). A VMM of version 0 or 1 ignores [`GROW_DISK`].

/// Client → VMM: connect to a port of the guest.
pub const CONNECT: u8 = 1;

/// VMM → client: the guest connected to a port of the host.
pub const INCOMING: u8 = 2;

/// Client → VMM: append a file to the last read-only disk.
pub const GROW_DISK: u8 = 3;

/// The unit of the length in [`GROW_DISK`].
pub const BLOCK_BYTES: u64 = 4096;

/// The version with [`GROW_DISK`].
pub const GROW_DISK_VERSION: u32 = 2;

/// Length of every message in bytes.
pub const MESSAGE_BYTES: usize = 5;

/// Encodes a message.
#[must_use]
pub fn encode(kind: u8, port: u32) -> [u8; MESSAGE_BYTES] {
    let [a, b, c, d] = port.to_be_bytes();
    [kind, a, b, c, d]
}

/// Decodes a message into its kind and port; `None` if its length is wrong.
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
