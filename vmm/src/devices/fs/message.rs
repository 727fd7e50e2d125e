//! The headers of FUSE messages (`include/uapi/linux/fuse.h`), and which of them are valid.
//!
//! What a request means is up to the file server. The device looks behind the header only of those that concern the
//! files which it can read itself ([`super::open_files`]).

/// Length of `struct fuse_in_header`, with which every request begins.
pub const REQUEST_HEADER_BYTES: usize = 40;
/// Length of `struct fuse_out_header`, with which every reply begins.
pub const REPLY_HEADER_BYTES: usize = 16;
/// Maximum length of a message: 1 MiB of data, and room for the headers around them.
pub const MAX_MESSAGE_BYTES: usize = (1 << 20) + 4096;

/// Opcode of a request without reply: the kernel drops references to an inode.
const FORGET: u32 = 2;
/// The same for several inodes.
const BATCH_FORGET: u32 = 42;
const READ: u32 = 15;
const RELEASE: u32 = 18;
/// The guest begins and ends to use the shares; the server then closes all files.
const INIT: u32 = 26;
const DESTROY: u32 = 38;

/// Length of `struct fuse_read_in`.
const READ_BYTES: usize = 40;
/// Length of the handle, with which `struct fuse_release_in` begins.
const HANDLE_BYTES: usize = 8;

/// Error numbers in a reply are above this one, negated (`fuse_dev_do_write` in `fs/fuse/dev.c`).
const LAST_ERROR: i32 = -512;

/// The header of a request, in a private copy that the guest cannot change.
#[derive(Debug, Clone, Copy)]
pub struct RequestHeader {
    bytes: [u8; REQUEST_HEADER_BYTES],
    length: usize,
    opcode: u32,
    /// The guest's name for the request.
    pub unique: u64,
    /// The inode that the request is about.
    node: u64,
}

/// A READ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    pub node: u64,
    pub handle: u64,
    pub offset: u64,
    pub size: usize,
}

/// What a request means for the files that the device can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileRequest {
    Read(Read),
    /// The guest closes the file with this handle.
    Release(u64),
    /// No handle is valid any more.
    ReleaseAll,
    Other,
}

impl RequestHeader {
    #[must_use]
    pub fn parse(bytes: [u8; REQUEST_HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, o0, o1, o2, o3, u0, u1, u2, u3, u4, u5, u6, u7, ..] = bytes;
        Self {
            bytes,
            length: length(u32::from_le_bytes([l0, l1, l2, l3])),
            opcode: u32::from_le_bytes([o0, o1, o2, o3]),
            unique: u64::from_le_bytes([u0, u1, u2, u3, u4, u5, u6, u7]),
            node: field(&bytes, 16).map_or(0, u64::from_le_bytes),
        }
    }

    /// How many bytes of the body the device must know, for [`Self::file_request`].
    #[must_use]
    pub fn known_bytes(&self) -> usize {
        let body = self.length.saturating_sub(REQUEST_HEADER_BYTES);
        match self.opcode {
            READ if body == READ_BYTES => READ_BYTES,
            RELEASE if body >= HANDLE_BYTES => HANDLE_BYTES,
            _ => 0,
        }
    }

    /// What the request means for files, given [`Self::known_bytes`] of its body.
    #[must_use]
    pub fn file_request(&self, body: &[u8]) -> FileRequest {
        let known = match self.opcode {
            READ => self.read(body).map(FileRequest::Read),
            RELEASE => field(body, 0).map(u64::from_le_bytes).map(FileRequest::Release),
            INIT | DESTROY => Some(FileRequest::ReleaseAll),
            _ => None,
        };
        known.unwrap_or(FileRequest::Other)
    }

    /// The fields of `struct fuse_read_in`.
    fn read(&self, body: &[u8]) -> Option<Read> {
        Some(Read {
            node: self.node,
            handle: u64::from_le_bytes(field(body, 0)?),
            offset: u64::from_le_bytes(field(body, 8)?),
            size: length(u32::from_le_bytes(field(body, 16)?)),
        })
    }

    /// Whether the header states the length of its message, which has `rest` bytes after the header.
    #[must_use]
    pub fn fits(&self, rest: usize) -> bool {
        self.length <= MAX_MESSAGE_BYTES && self.length.checked_sub(REQUEST_HEADER_BYTES) == Some(rest)
    }

    /// Whether the server answers the request.
    #[must_use]
    pub fn expects_reply(&self) -> bool {
        !matches!(self.opcode, FORGET | BATCH_FORGET)
    }

    /// The header with another name for the request.
    #[must_use]
    pub fn renamed(&self, unique: u64) -> [u8; REQUEST_HEADER_BYTES] {
        let mut bytes = self.bytes;
        for (to, from) in bytes.iter_mut().skip(8).zip(unique.to_le_bytes()) {
            *to = from;
        }
        bytes
    }
}

/// The header of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader {
    /// Length of the whole reply.
    pub length: usize,
    /// 0, or a negated error number.
    pub error: i32,
    /// The request's name.
    pub unique: u64,
}

impl ReplyHeader {
    #[must_use]
    pub fn parse(bytes: [u8; REPLY_HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, e0, e1, e2, e3, unique @ ..] = bytes;
        Self {
            length: length(u32::from_le_bytes([l0, l1, l2, l3])),
            error: i32::from_le_bytes([e0, e1, e2, e3]),
            unique: u64::from_le_bytes(unique),
        }
    }

    /// A reply that consists of an error number.
    #[must_use]
    pub fn failure(unique: u64, error: i32) -> Self {
        Self {
            length: REPLY_HEADER_BYTES,
            error: -error,
            unique,
        }
    }

    /// The number of bytes after the header; `None` if the length is out of bounds, so that the next reply cannot be
    /// found.
    #[must_use]
    pub fn body(&self) -> Option<usize> {
        let body = self.length.checked_sub(REPLY_HEADER_BYTES)?;
        (self.length <= MAX_MESSAGE_BYTES).then_some(body)
    }

    /// Whether the error number is valid, and comes without a body, as a guest's kernel expects.
    #[must_use]
    pub fn has_valid_error(&self) -> bool {
        self.error == 0 || (self.error < 0 && self.error > LAST_ERROR && self.length == REPLY_HEADER_BYTES)
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; REPLY_HEADER_BYTES] {
        let [l0, l1, l2, l3] = u32::try_from(self.length).unwrap_or(u32::MAX).to_le_bytes();
        let [e0, e1, e2, e3] = self.error.to_le_bytes();
        let [u0, u1, u2, u3, u4, u5, u6, u7] = self.unique.to_le_bytes();
        [l0, l1, l2, l3, e0, e1, e2, e3, u0, u1, u2, u3, u4, u5, u6, u7]
    }
}

/// The bytes of a field that begins at an offset.
fn field<const BYTES: usize>(bytes: &[u8], offset: usize) -> Option<[u8; BYTES]> {
    bytes.get(offset..)?.first_chunk().copied()
}

/// A length as a number of bytes in memory.
fn length(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::driver::request_header;
    use super::*;

    #[test]
    fn a_request_must_be_as_long_as_its_header_says() {
        let header = |length| RequestHeader::parse(request_header(length, 15, 7));
        assert!(header(40).fits(0) && header(41).fits(1) && header(MAX_MESSAGE_BYTES).fits(MAX_MESSAGE_BYTES - 40));
        assert!(!header(40).fits(1) && !header(41).fits(0) && !header(39).fits(0) && !header(0).fits(0));
        assert!(!header(MAX_MESSAGE_BYTES + 1).fits(MAX_MESSAGE_BYTES - 39));
    }

    #[test]
    fn only_the_name_of_a_renamed_request_changes() {
        let header = RequestHeader::parse(request_header(48, 15, 7));
        assert_eq!((header.unique, header.expects_reply()), (7, true));
        assert_eq!(
            header.renamed(0x0102_0304_0506_0708),
            request_header(48, 15, 0x0102_0304_0506_0708)
        );
    }

    #[test]
    fn the_device_knows_the_beginning_of_requests_that_concern_open_files() {
        let mut bytes = request_header(80, 15, 7);
        bytes[16..24].copy_from_slice(&9u64.to_le_bytes());
        let header = RequestHeader::parse(bytes);
        let mut body = [0; 40];
        body[0] = 3;
        body[9] = 1;
        body[18] = 2;
        let read = Read {
            node: 9,
            handle: 3,
            offset: 0x100,
            size: 0x2_0000,
        };
        assert_eq!(
            (header.known_bytes(), header.file_request(&body)),
            (40, FileRequest::Read(read))
        );
        let header = |length, opcode| RequestHeader::parse(request_header(length, opcode, 7));
        for length in [40, 79, 81] {
            assert_eq!(header(length, 15).known_bytes(), 0, "not a valid READ");
        }
        assert_eq!(header(79, 15).file_request(b""), FileRequest::Other);
        assert_eq!((header(47, 18).known_bytes(), header(48, 18).known_bytes()), (0, 8));
        assert_eq!(
            header(64, 18).file_request(&5u64.to_le_bytes()),
            FileRequest::Release(5)
        );
        assert_eq!(header(47, 18).file_request(b""), FileRequest::Other);
        for opcode in [26, 38] {
            assert_eq!(header(40, opcode).file_request(b""), FileRequest::ReleaseAll);
        }
        assert_eq!(
            (header(80, 16).known_bytes(), header(80, 16).file_request(b"")),
            (0, FileRequest::Other)
        );
    }

    #[test]
    fn forgets_expect_no_reply() {
        let expecting = (0..60).filter(|opcode| RequestHeader::parse(request_header(48, *opcode, 7)).expects_reply());
        assert_eq!(
            expecting.collect::<Vec<_>>(),
            (0..60).filter(|opcode| ![2, 42].contains(opcode)).collect::<Vec<_>>()
        );
    }

    #[test]
    fn replies_without_a_valid_length_or_error_are_recognised() {
        let reply = |length, error| ReplyHeader {
            length,
            error,
            unique: 1,
        };
        assert_eq!(reply(16, 0).body(), Some(0));
        assert_eq!(reply(MAX_MESSAGE_BYTES, 0).body(), Some(MAX_MESSAGE_BYTES - 16));
        for length in [0, 15, MAX_MESSAGE_BYTES + 1, usize::MAX] {
            assert_eq!(reply(length, 0).body(), None);
        }
        assert!(reply(20, 0).has_valid_error() && reply(16, -2).has_valid_error() && reply(16, -511).has_valid_error());
        for (length, error) in [(16, 1), (16, -512), (16, i32::MIN), (17, -2)] {
            assert!(!reply(length, error).has_valid_error(), "{length} {error}");
        }
        assert_eq!(
            ReplyHeader::failure(9, libc::EIO),
            ReplyHeader {
                length: 16,
                error: -5,
                unique: 9
            }
        );
    }

    proptest! {
        #[test]
        fn a_reply_header_survives_the_round_trip(bytes: [u8; REPLY_HEADER_BYTES]) {
            let header = ReplyHeader::parse(bytes);
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert!(header.body().is_none_or(|body| body <= MAX_MESSAGE_BYTES - REPLY_HEADER_BYTES));
        }
    }
}
