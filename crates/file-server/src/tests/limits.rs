//! What a guest can hold.

use std::fs;

use super::guest::{Append, Guest, LIMITS};
use crate::file_system::Limits;
use crate::inodes::ROOT;
use crate::protocol::opcode;

#[test]
fn a_guest_that_looks_up_for_ever_gets_an_error_and_can_go_on() {
    let (mut guest, share) = Guest::with_limits(Limits { inodes: 10, ..LIMITS });
    let mut nodes = Vec::new();
    for number in 0..20 {
        let name = number.to_string();
        fs::write(guest.path(&name), "").unwrap();
        match guest.look_up(share, name.as_bytes()) {
            Ok(told) => nodes.push(told.node),
            Err(error) => assert_eq!(error, libc::ENFILE),
        }
    }
    // The share itself is the tenth.
    assert_eq!(nodes.len(), 9);
    assert_eq!(guest.make_directory(share, b"x", 0o755), Err(libc::ENFILE));
    // Batches are forgotten as well.
    let pairs = nodes.iter().fold(Vec::new(), |pairs, node| pairs.u64(*node).u64(1));
    let body = Vec::new().u32(9).u32(0).raw(&pairs);
    guest.send(opcode::BATCH_FORGET, 0, &body);
    assert!(guest.look_up(share, b"19").is_ok());
    assert!(guest.attributes(share).is_ok());
}

#[test]
fn reading_a_directory_goes_on_without_inodes_at_the_limit() {
    let (mut guest, share) = Guest::with_limits(Limits { inodes: 3, ..LIMITS });
    for number in 0..20 {
        fs::write(guest.path(&number.to_string()), "").unwrap();
    }
    let handle = guest.open_directory(share).unwrap();
    let body = Vec::new().u64(handle).u64(0).u32(8192).raw(&[0; 20]);
    let entries = guest.call(opcode::READDIRPLUS, share, &body).unwrap();
    assert_eq!(entries.len(), 22 * 160);
    assert_eq!(guest.file_system().inodes.count(), 3);
}

#[test]
fn open_files_are_limited_and_what_was_created_is_forgotten() {
    let (mut guest, share) = Guest::with_limits(Limits { handles: 3, ..LIMITS });
    let mut handles = Vec::new();
    for _ in 0..3 {
        handles.push(guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap());
    }
    let inodes = guest.file_system().inodes.count();
    assert_eq!(guest.create(share, b"file", libc::O_RDWR, 0o644), Err(libc::ENFILE));
    assert_eq!(guest.create(share, b"new", libc::O_RDWR, 0o644), Err(libc::ENFILE));
    assert_eq!(guest.open_directory(share), Err(libc::ENFILE));
    assert_eq!(guest.file_system().inodes.count(), inodes);
    let (told, handle) = handles[0];
    guest.release(told.node, handle).unwrap();
    assert!(guest.open_directory(share).is_ok());
}

#[test]
fn fewer_directories_than_files_can_be_open() {
    let (mut guest, share) = Guest::with_share();
    for _ in 0..10 {
        guest.open_directory(share).unwrap();
    }
    assert_eq!(guest.open_directory(share), Err(libc::ENFILE));
    assert_eq!(guest.open_directory(ROOT), Err(libc::ENFILE));
    assert!(guest.create(share, b"file", libc::O_RDWR, 0o644).is_ok());
}

#[test]
fn forgetting_more_than_was_looked_up_does_no_harm() {
    let (mut guest, share) = Guest::with_share();
    let (file, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    guest.forget(file.node, u64::MAX);
    guest.forget(file.node, u64::MAX);
    guest.forget(u64::MAX, 1);
    guest.forget(1, 1);
    assert_eq!(guest.attributes(file.node), Err(libc::ESTALE));
    // The open file is still there.
    assert_eq!(guest.write(file.node, handle, 0, b"x"), Ok(1));
    assert_ne!(guest.look_up(share, b"file").unwrap().node, file.node);
}
