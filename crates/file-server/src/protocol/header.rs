//! The headers of requests and replies.

use super::MAX_MESSAGE_BYTES;
use super::fields::{Fields, Malformed};

/// Length of `struct fuse_in_header`.
pub const REQUEST_HEADER_BYTES: usize = 40;

/// Length of `struct fuse_out_header`.
pub const REPLY_HEADER_BYTES: usize = 16;

/// `struct fuse_in_header`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// Length of the whole request.
    pub length: usize,
    pub opcode: u32,
    /// Names the request in its reply.
    pub unique: u64,
    /// The inode that the request is about.
    pub node: u64,
    /// The user and group of the process in the guest.
    pub uid: u32,
    pub gid: u32,
    /// Length of the extensions at the end of the request.
    pub extension_bytes: usize,
}

impl RequestHeader {
    /// Parses a header. The length is within the protocol's limits, and the extensions within the body.
    pub fn parse(bytes: &[u8; REQUEST_HEADER_BYTES]) -> Result<Self, Malformed> {
        let mut fields = Fields::new(bytes);
        let length = usize::try_from(fields.u32()?).map_err(|_| Malformed)?;
        let opcode = fields.u32()?;
        let unique = fields.u64()?;
        let node = fields.u64()?;
        let uid = fields.u32()?;
        let gid = fields.u32()?;
        let _pid = fields.u32()?;
        // In units of 8 bytes.
        let extension_bytes = usize::from(fields.u16()?) * 8;
        if !(REQUEST_HEADER_BYTES..=MAX_MESSAGE_BYTES).contains(&length)
            || extension_bytes > length - REQUEST_HEADER_BYTES
        {
            return Err(Malformed);
        }
        Ok(Self {
            length,
            opcode,
            unique,
            node,
            uid,
            gid,
            extension_bytes,
        })
    }

    /// Length of the body without its extensions.
    pub fn body_bytes(&self) -> usize {
        self.length - REQUEST_HEADER_BYTES - self.extension_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(length: u32, extensions: u16) -> [u8; REQUEST_HEADER_BYTES] {
        let mut bytes = [0; REQUEST_HEADER_BYTES];
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes[36..38].copy_from_slice(&extensions.to_le_bytes());
        bytes
    }

    #[test]
    fn the_length_is_within_the_limits() {
        let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
        assert_eq!(RequestHeader::parse(&header(40, 0)).unwrap().body_bytes(), 0);
        assert_eq!(
            RequestHeader::parse(&header(longest, 0)).unwrap().length,
            MAX_MESSAGE_BYTES
        );
        for length in [0, 39, longest + 1, u32::MAX] {
            assert_eq!(RequestHeader::parse(&header(length, 0)), Err(Malformed), "{length}");
        }
    }

    #[test]
    fn extensions_are_inside_the_request() {
        assert_eq!(RequestHeader::parse(&header(60, 2)).unwrap().body_bytes(), 4);
        assert_eq!(RequestHeader::parse(&header(55, 2)), Err(Malformed));
    }
}
