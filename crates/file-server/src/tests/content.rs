//! Content of files: reading, writing, sizes, holes, copies.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use super::guest::{Append, Guest, SetRequest};
use crate::protocol::MAX_DATA_BYTES;
use crate::protocol::fields::Fields;
use crate::protocol::opcode;

const SIZE: u32 = 1 << 3;
const HANDLE: u32 = 1 << 6;
const KILL_SUIDGID: u32 = 1 << 11;

#[test]
fn what_is_written_is_read_by_guest_and_host() {
    let (mut guest, share) = Guest::with_share();
    let (told, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    assert_eq!(guest.write(told.node, handle, 3, b"abc"), Ok(3));
    assert_eq!(guest.read(told.node, handle, 0, 100).unwrap(), b"\0\0\0abc");
    assert_eq!(guest.read(told.node, handle, 4, 1).unwrap(), b"b");
    assert_eq!(guest.read(told.node, handle, 6, 1).unwrap(), b"");
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"\0\0\0abc");
    assert_eq!(guest.attributes(told.node).unwrap().size, 6);
    for data_only in [0, 1] {
        let body = Vec::new().u64(handle).u32(data_only).u32(0);
        assert_eq!(guest.call(opcode::FSYNC, told.node, &body), Ok(vec![]));
    }
    let flush = Vec::new().u64(handle).u64(0).u64(5);
    assert_eq!(guest.call(opcode::FLUSH, told.node, &flush), Ok(vec![]));
    assert_eq!(guest.release(told.node, handle), Ok(vec![]));
    assert_eq!(guest.read(told.node, handle, 0, 100), Err(libc::EBADF));
}

#[test]
fn the_largest_requests_are_served() {
    let (mut guest, share) = Guest::with_share();
    let (told, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let data: Vec<u8> = (0..MAX_DATA_BYTES).map(|index| (index / 1000) as u8).collect();
    let length = u32::try_from(data.len()).unwrap();
    assert_eq!(guest.write(told.node, handle, 0, &data), Ok(length));
    assert!(guest.read(told.node, handle, 0, length).unwrap() == data);
    // No more than fits into a reply.
    assert_eq!(guest.write(told.node, handle, u64::from(length), b"more"), Ok(4));
    assert_eq!(guest.read(told.node, handle, 0, u32::MAX).unwrap().len(), data.len());
}

#[test]
fn appending_writes_go_to_the_end_wherever_the_guest_takes_it_to_be() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("log"), "first\n").unwrap();
    let node = guest.look_up(share, b"log").unwrap().node;
    let (handle, _) = guest.open(node, libc::O_RDWR | libc::O_APPEND).unwrap();
    // Another Pod appends, which this guest has not seen.
    fs::write(guest.path("log"), "first\nsecond\n").unwrap();
    let append = (0, libc::O_APPEND);
    assert_eq!(guest.write_with(node, handle, 6, b"third\n", append), Ok(6));
    assert_eq!(fs::read(guest.path("log")).unwrap(), b"first\nsecond\nthird\n");
    // A page of a mapping has its place, although the file was opened to append.
    let from_mapping = (1, libc::O_APPEND);
    assert_eq!(guest.write_with(node, handle, 0, b"FIRST", from_mapping), Ok(5));
    assert_eq!(fs::read(guest.path("log")).unwrap(), b"FIRST\nsecond\nthird\n");
}

#[test]
fn a_file_is_truncated_when_it_is_opened_and_by_its_size() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("file"), "content").unwrap();
    let node = guest.look_up(share, b"file").unwrap().node;
    let set = |size, handle: Option<u64>| SetRequest {
        valid: SIZE | if handle.is_some() { HANDLE } else { 0 },
        size,
        handle: handle.unwrap_or(0),
        ..SetRequest::default()
    };
    assert_eq!(guest.set_attributes(node, set(3, None)).unwrap().size, 3);
    let (handle, _) = guest.open(node, libc::O_RDWR).unwrap();
    assert_eq!(guest.set_attributes(node, set(5, Some(handle))).unwrap().size, 5);
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"con\0\0");
    guest.open(node, libc::O_WRONLY | libc::O_TRUNC).unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"");
    assert_eq!(guest.set_attributes(node, set(u64::MAX, None)), Err(libc::EFBIG));
    assert_eq!(guest.set_attributes(share, set(0, None)), Err(libc::EISDIR));
}

#[test]
fn a_write_clears_set_user_id_if_the_guest_says_so() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("program"), "x").unwrap();
    let mode = |guest: &Guest| fs::metadata(guest.path("program")).unwrap().mode() & 0o7777;
    let set = |guest: &Guest| {
        fs::set_permissions(guest.path("program"), fs::Permissions::from_mode(0o6755)).unwrap();
    };
    let node = guest.look_up(share, b"program").unwrap().node;
    let (handle, _) = guest.open(node, libc::O_RDWR).unwrap();
    let kill = 1 << 2;
    set(&guest);
    guest.write_with(node, handle, 0, b"y", (kill, 0)).unwrap();
    assert_eq!(mode(&guest), 0o755);
    set(&guest);
    let truncate = SetRequest {
        valid: SIZE | KILL_SUIDGID,
        size: 5,
        ..SetRequest::default()
    };
    guest.set_attributes(node, truncate).unwrap();
    assert_eq!(mode(&guest), 0o755);
    set(&guest);
    let flags = (libc::O_WRONLY | libc::O_TRUNC).cast_unsigned();
    let open_kill = Vec::new().u32(flags).u32(1);
    guest.call(opcode::OPEN, node, &open_kill).unwrap();
    assert_eq!(mode(&guest), 0o755);
    // These requests do not say it.
    set(&guest);
    let allocate = Vec::new().u64(handle).u64(0).u64(100).u32(0).u32(0);
    guest.call(opcode::FALLOCATE, node, &allocate).unwrap();
    assert_eq!(mode(&guest), 0o755);
    set(&guest);
    let copy = Vec::new()
        .u64(handle)
        .u64(0)
        .u64(node)
        .u64(handle)
        .u64(50)
        .u64(10)
        .u64(0);
    guest.call(opcode::COPY_FILE_RANGE, node, &copy).unwrap();
    assert_eq!(mode(&guest), 0o755);
}

#[test]
fn holes_are_found_and_made() {
    let (mut guest, share) = Guest::with_share();
    let (told, handle) = guest.create(share, b"sparse", libc::O_RDWR, 0o644).unwrap();
    let mebibyte = 1 << 20;
    guest.write(told.node, handle, 0, &[1; 4096]).unwrap();
    guest.write(told.node, handle, mebibyte, &[1; 4096]).unwrap();
    let mut seek = |offset, whence: i32| {
        let body = Vec::new().u64(handle).u64(offset).u32(whence.cast_unsigned()).u32(0);
        let answer = guest.call(opcode::LSEEK, told.node, &body);
        answer.map(|body| Fields::new(&body).u64().unwrap())
    };
    let hole = seek(0, libc::SEEK_HOLE).unwrap();
    assert!((4096..=mebibyte + 4096).contains(&hole));
    assert_eq!(seek(mebibyte, libc::SEEK_DATA), Ok(mebibyte));
    assert_eq!(seek(2 * mebibyte, libc::SEEK_DATA), Err(libc::ENXIO));
    for (offset, whence) in [
        (0, libc::SEEK_SET),
        (0, libc::SEEK_CUR),
        (u64::MAX, libc::SEEK_DATA),
        (0, -1),
    ] {
        assert_eq!(seek(offset, whence), Err(libc::EINVAL));
    }
    let mut allocate = |offset, length, mode: i32| {
        let body = Vec::new()
            .u64(handle)
            .u64(offset)
            .u64(length)
            .u32(mode.cast_unsigned())
            .u32(0);
        guest.call(opcode::FALLOCATE, told.node, &body)
    };
    assert_eq!(allocate(0, 2 * mebibyte, 0), Ok(vec![]));
    let punch = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    assert_eq!(allocate(0, 4096, punch), Ok(vec![]));
    assert_eq!(allocate(0, 4096, libc::FALLOC_FL_COLLAPSE_RANGE), Err(libc::EOPNOTSUPP));
    assert_eq!(allocate(1, u64::MAX, 0), Err(libc::EINVAL));
    assert_eq!(guest.read(told.node, handle, 0, 1).unwrap(), [0]);
    assert_eq!(guest.attributes(told.node).unwrap().size, 2 * mebibyte);
}

#[test]
fn a_range_is_copied_between_files() {
    let (mut guest, share) = Guest::with_share();
    let (from, from_handle) = guest.create(share, b"from", libc::O_RDWR, 0o644).unwrap();
    let (to, to_handle) = guest.create(share, b"to", libc::O_RDWR, 0o644).unwrap();
    guest.write(from.node, from_handle, 0, b"0123456789").unwrap();
    let copy = |from_offset, length| {
        let body = Vec::new().u64(from_handle).u64(from_offset).u64(to.node).u64(to_handle);
        body.u64(1).u64(length).u64(0)
    };
    let answer = guest.call(opcode::COPY_FILE_RANGE, from.node, &copy(4, 3)).unwrap();
    assert_eq!(Fields::new(&answer).u32(), Ok(3));
    assert_eq!(fs::read(guest.path("to")).unwrap(), b"\x00456");
    // As much as there is.
    let answer = guest
        .call(opcode::COPY_FILE_RANGE, from.node, &copy(4, u64::MAX))
        .unwrap();
    assert_eq!(Fields::new(&answer).u32(), Ok(6));
    let beyond = guest.call(opcode::COPY_FILE_RANGE, from.node, &copy(u64::MAX, 1));
    assert_eq!(beyond, Err(libc::EINVAL));
}

#[test]
fn what_the_guest_has_cached_of_a_file_stays_valid_while_the_file_does_not_change() {
    let (mut guest, share) = Guest::with_share();
    let keep_cache = 1 << 1;
    // Nothing changes this one, and it is older than the resolution of time stamps.
    let node = guest.share("shell", Path::new("/bin/sh"), true);
    assert_eq!(guest.open(node, libc::O_RDONLY).unwrap().1, 0);
    assert_eq!(guest.open(node, libc::O_RDONLY).unwrap().1, keep_cache);
    // A file that has just been written could be changed again without another time stamp.
    fs::write(guest.path("file"), "content").unwrap();
    let told = guest.look_up(share, b"file").unwrap();
    assert_eq!(told.name_valid_for, 0);
    for _ in 0..2 {
        assert_eq!(guest.open(told.node, libc::O_RDONLY).unwrap().1, 0);
    }
}
