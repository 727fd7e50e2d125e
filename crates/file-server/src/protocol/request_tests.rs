use proptest::prelude::*;

use super::header::{REQUEST_HEADER_BYTES, RequestHeader};
use super::opcode;
use super::request::{Operation, RequestError};

fn header(opcode: u32, body: &[u8]) -> RequestHeader {
    RequestHeader {
        length: REQUEST_HEADER_BYTES + body.len(),
        opcode,
        unique: 1,
        node: 1,
        uid: 0,
        gid: 0,
        extension_bytes: 0,
    }
}

fn parse(opcode: u32, body: &[u8]) -> Result<Operation<'_>, RequestError> {
    Operation::parse(&header(opcode, body), body)
}

/// The lengths of bodies without names and data, by opcode.
const FIXED: &[(u32, usize)] = &[
    (opcode::FORGET, 8),
    (opcode::GETATTR, 16),
    (opcode::SETATTR, 88),
    (opcode::READLINK, 0),
    (opcode::OPEN, 8),
    (opcode::READ, 40),
    (opcode::STATFS, 0),
    (opcode::RELEASE, 24),
    (opcode::FSYNC, 16),
    (opcode::LISTXATTR, 8),
    (opcode::FLUSH, 24),
    (opcode::OPENDIR, 8),
    (opcode::READDIR, 40),
    (opcode::RELEASEDIR, 24),
    (opcode::FSYNCDIR, 16),
    (opcode::READDIRPLUS, 40),
    (opcode::GETLK, 48),
    (opcode::SETLK, 48),
    (opcode::SETLKW, 48),
    (opcode::DESTROY, 0),
    (opcode::FALLOCATE, 32),
    (opcode::LSEEK, 24),
    (opcode::COPY_FILE_RANGE, 56),
    (opcode::SYNCFS, 8),
];

#[test]
fn a_body_has_exactly_the_kernel_s_length() {
    for (opcode, length) in FIXED {
        let body = vec![0; length + 1];
        assert!(parse(*opcode, &body[..*length]).is_ok(), "{opcode}");
        assert_eq!(parse(*opcode, &body), Err(RequestError::Malformed), "{opcode}");
        if let Some(shorter) = length.checked_sub(1) {
            let result = parse(*opcode, &body[..shorter]);
            assert_eq!(result, Err(RequestError::Malformed), "{opcode}");
        }
    }
}

#[test]
fn the_data_of_a_write_has_the_length_that_it_says() {
    let mut body = [0; 43];
    body[16] = 3;
    body[40..].copy_from_slice(b"abc");
    let Ok(Operation::Write(write)) = parse(opcode::WRITE, &body) else {
        panic!("not a write");
    };
    assert_eq!(write.data, b"abc");
    for size in [2, 4, 255] {
        body[16] = size;
        assert_eq!(parse(opcode::WRITE, &body), Err(RequestError::Malformed), "{size}");
    }
}

#[test]
fn the_count_of_forgets_is_that_of_the_message() {
    let mut body = [0; 40];
    body[0] = 2;
    body[8] = 5;
    body[16] = 1;
    body[24] = 6;
    body[32] = 9;
    let Ok(Operation::BatchForget(forgets)) = parse(opcode::BATCH_FORGET, &body) else {
        panic!("not a forget");
    };
    assert_eq!(forgets.iter().collect::<Vec<_>>(), [(5, 1), (6, 9)]);
    body[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(parse(opcode::BATCH_FORGET, &body), Err(RequestError::Malformed));
}

#[test]
fn names_are_single_components() {
    for name in [b"..\0".as_slice(), b".\0", b"a/b\0", b"\0", b"a"] {
        assert_eq!(parse(opcode::LOOKUP, name), Err(RequestError::Malformed), "{name:?}");
    }
    let mut long = vec![b'a'; 256];
    long.push(0);
    assert_eq!(parse(opcode::LOOKUP, &long), Err(RequestError::NameTooLong));
    let rename = [[0; 16].as_slice(), b"a\0..\0"].concat();
    assert_eq!(parse(opcode::RENAME2, &rename), Err(RequestError::Malformed));
}

#[test]
fn operations_that_the_server_does_not_have_are_unsupported() {
    // ACCESS, INTERRUPT, BMAP, IOCTL, POLL, SETUPMAPPING, REMOVEMAPPING, STATX, CUSE_INIT
    for opcode in [0, 34, 36, 37, 39, 40, 48, 49, 52, 4096, u32::MAX] {
        assert_eq!(parse(opcode, &[]), Err(RequestError::Unsupported), "{opcode}");
    }
}

proptest! {
    #[test]
    fn any_body_is_parsed_or_refused(opcode in 0u32..60, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(opcode, &body);
    }

    #[test]
    fn any_header_is_parsed_or_refused(bytes in prop::array::uniform32(any::<u8>()), rest: [u8; 8]) {
        let mut header = [0; REQUEST_HEADER_BYTES];
        header[..32].copy_from_slice(&bytes);
        header[32..].copy_from_slice(&rest);
        if let Ok(header) = RequestHeader::parse(&header) {
            prop_assert!(header.body_bytes() + header.extension_bytes + REQUEST_HEADER_BYTES == header.length);
        }
    }
}
