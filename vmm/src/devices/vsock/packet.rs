//! Parses and builds the packet header (section 5.10.6).

/// Bytes of a header.
pub const HEADER_BYTES: usize = 44;
/// The host's context id.
pub const HOST_CID: u64 = libc::VMADDR_CID_HOST as u64;
/// Maximum payload of one packet: Linux sends no more (`VIRTIO_VSOCK_MAX_PKT_BUF_SIZE`).
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;
/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub const TYPE_STREAM: u16 = 1;
/// Flag of [`Op::Shutdown`]: the sender receives no more.
pub const SHUTDOWN_RECEIVE: u32 = 1;
/// Flag of [`Op::Shutdown`]: the sender sends no more.
pub const SHUTDOWN_SEND: u32 = 2;

/// The operation of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Open a connection.
    Request,
    /// The connection is open.
    Response,
    /// The connection does not exist, or no longer does.
    Rst,
    /// One direction or both end.
    Shutdown,
    /// Payload.
    Rw,
    /// New credit.
    CreditUpdate,
    /// Ask for a [`Op::CreditUpdate`].
    CreditRequest,
}

impl Op {
    fn from_u16(value: u16) -> Option<Self> {
        Some(match value {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Rst,
            4 => Self::Shutdown,
            5 => Self::Rw,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    fn to_u16(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Rst => 3,
            Self::Shutdown => 4,
            Self::Rw => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

/// A packet header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Context id of the sender.
    pub src_cid: u64,
    /// Context id of the receiver.
    pub dst_cid: u64,
    /// Port of the sender.
    pub src_port: u32,
    /// Port of the receiver.
    pub dst_port: u32,
    /// Length of the payload in bytes.
    pub len: u32,
    /// Socket type; [`TYPE_STREAM`] is the only one offered.
    pub socket_type: u16,
    /// `None` if the operation does not exist.
    pub op: Option<Op>,
    /// Flags of the operation.
    pub flags: u32,
    /// Size of the sender's receive buffer in bytes.
    pub buf_alloc: u32,
    /// Bytes that the sender has taken out of its receive buffer, modulo 2^32.
    pub fwd_cnt: u32,
}

impl Header {
    /// Parses a header; any byte string of this length is valid.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let rest = &mut bytes.as_slice();
        let src_cid = u64::from_le_bytes(take(rest));
        let dst_cid = u64::from_le_bytes(take(rest));
        let src_port = u32::from_le_bytes(take(rest));
        let dst_port = u32::from_le_bytes(take(rest));
        let len = u32::from_le_bytes(take(rest));
        let socket_type = u16::from_le_bytes(take(rest));
        let op = Op::from_u16(u16::from_le_bytes(take(rest)));
        let flags = u32::from_le_bytes(take(rest));
        let buf_alloc = u32::from_le_bytes(take(rest));
        let fwd_cnt = u32::from_le_bytes(take(rest));
        Self {
            src_cid,
            dst_cid,
            src_port,
            dst_port,
            len,
            socket_type,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        }
    }

    #[must_use]
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut rest = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            let (to, after) = std::mem::take(&mut rest).split_at_mut(field.len());
            to.copy_from_slice(field);
            rest = after;
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.socket_type.to_le_bytes());
        put(&self.op.map_or(0, Op::to_u16).to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }
}

/// Takes the next field of a header; the header is exactly as long as all its fields.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (field, after) = rest.split_first_chunk().expect("a header has all its fields");
    *rest = after;
    *field
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_fields_are_at_the_offsets_of_the_specification() {
        let mut bytes = [0u8; HEADER_BYTES];
        for (index, byte) in (0u8..).zip(&mut bytes) {
            *byte = index;
        }
        bytes[28..32].copy_from_slice(&[1, 0, 5, 0]);
        let header = Header::parse(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.dst_cid, 0x0f0e_0d0c_0b0a_0908);
        assert_eq!(
            (header.src_port, header.dst_port, header.len),
            (0x1312_1110, 0x1716_1514, 0x1b1a_1918)
        );
        assert_eq!((header.socket_type, header.op), (TYPE_STREAM, Some(Op::Rw)));
        assert_eq!(
            (header.flags, header.buf_alloc, header.fwd_cnt),
            (0x2322_2120, 0x2726_2524, 0x2b2a_2928)
        );
    }

    proptest! {
        #[test]
        fn a_known_header_survives_the_round_trip(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES), op in 1u16..8) {
            let mut bytes: [u8; HEADER_BYTES] = bytes.try_into().unwrap();
            bytes[30..32].copy_from_slice(&op.to_le_bytes());
            prop_assert_eq!(Header::parse(&bytes).to_bytes(), bytes);
        }
    }
}
