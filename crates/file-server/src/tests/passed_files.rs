//! Descriptors of open files that the VMM gets.

use std::fs;
use std::os::unix::fs::FileExt;

use rustix::fs::{OFlags, fcntl_getfl};

use super::guest::{Append, Guest};
use crate::protocol::opcode;

const LARGE: u32 = 64 << 10;

fn content() -> Vec<u8> {
    (0..LARGE * 2).map(|at| (at / 7).to_le_bytes()[0]).collect()
}

#[test]
fn the_first_large_read_of_each_open_file_passes_its_descriptor() {
    let (mut guest, share) = Guest::with_threads();
    fs::write(guest.path("file"), content()).unwrap();
    let node = guest.look_up(share, b"file").unwrap().node;
    for _ in 0..2 {
        let (handle, _) = guest.open(node, libc::O_RDONLY).unwrap();
        let (answer, descriptor) = guest.read_with_descriptor(node, handle, 0, LARGE - 1);
        assert!(answer.unwrap() == content()[..LARGE as usize - 1] && descriptor.is_none());
        let (answer, descriptor) = guest.read_with_descriptor(node, handle, 1, LARGE);
        assert!(answer.unwrap() == content()[1..=LARGE as usize]);
        let descriptor = descriptor.unwrap();
        let mut bytes = [0; 100];
        descriptor.read_exact_at(&mut bytes, 1000).unwrap();
        assert_eq!(bytes, content()[1000..1100]);
        // The handle is read-only, and so is its descriptor.
        assert_eq!(fcntl_getfl(&descriptor).unwrap() & OFlags::ACCMODE, OFlags::RDONLY);
        let (answer, descriptor) = guest.read_with_descriptor(node, handle, 0, LARGE);
        assert!(answer.unwrap() == content()[..LARGE as usize] && descriptor.is_none());
        guest.release(node, handle).unwrap();
    }
    assert!(guest.end().is_none());
}

#[test]
fn small_files_failed_reads_and_the_rest_at_the_end_pass_nothing() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("small"), &content()[..LARGE as usize - 1]).unwrap();
    fs::write(guest.path("large"), content()).unwrap();
    let small = guest.look_up(share, b"small").unwrap().node;
    let large = guest.look_up(share, b"large").unwrap().node;
    let (small_handle, _) = guest.open(small, libc::O_RDONLY).unwrap();
    let (write_only, _) = guest.open(large, libc::O_WRONLY).unwrap();
    let (large_handle, _) = guest.open(large, libc::O_RDWR).unwrap();
    let passed = |guest: &mut Guest, node, handle, offset| {
        let (answer, descriptor) = guest.read_with_descriptor(node, handle, offset, 1 << 20);
        (answer.map(|bytes| bytes.len()), descriptor.is_some())
    };
    assert_eq!(
        passed(&mut guest, small, small_handle, 0),
        (Ok(LARGE as usize - 1), false)
    );
    assert_eq!(passed(&mut guest, large, write_only, 0), (Err(libc::EBADF), false));
    assert_eq!(passed(&mut guest, small, large_handle, 0), (Err(libc::EBADF), false));
    let near_end = u64::from(LARGE) + 1;
    assert_eq!(
        passed(&mut guest, large, large_handle, near_end),
        (Ok(LARGE as usize - 1), false)
    );
    assert_eq!(
        passed(&mut guest, large, large_handle, near_end - 1),
        (Ok(LARGE as usize), true)
    );
    assert_eq!(
        passed(&mut guest, large, large_handle, 0),
        (Ok(2 * LARGE as usize), false)
    );
}

#[test]
fn a_passed_descriptor_keeps_no_lock_of_a_file_that_the_guest_has_closed() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("file"), content()).unwrap();
    let node = guest.look_up(share, b"file").unwrap().node;
    let (handle, _) = guest.open(node, libc::O_RDONLY).unwrap();
    let (_, passed) = guest.read_with_descriptor(node, handle, 0, LARGE);
    assert!(passed.is_some());
    let exclusive = u32::try_from(libc::F_WRLCK).unwrap();
    let flock = Vec::new()
        .u64(handle)
        .u64(1)
        .u64(0)
        .u64(u64::MAX >> 1)
        .u32(exclusive)
        .u32(1);
    guest.call(opcode::SETLK, node, &flock.u32(1).u32(0)).unwrap();
    let other = fs::File::open(guest.path("file")).unwrap();
    assert!(other.try_lock().is_err());
    // The guest's kernel says whether the file may have a lock.
    let release = Vec::new().u64(handle).u32(0).u32(1 << 1).u64(0);
    guest.call(opcode::RELEASE, node, &release).unwrap();
    assert!(other.try_lock().is_ok());
}
