//! Locks: within a guest, and between two.

use std::time::Duration;

use super::guest::{Answer, Append, Guest};
use crate::protocol::fields::Fields;
use crate::protocol::opcode;

const WHOLE: (u64, u64) = (0, i64::MAX as u64);
const SHARED: i32 = libc::F_RDLCK;
const EXCLUSIVE: i32 = libc::F_WRLCK;
const UNLOCK: i32 = libc::F_UNLCK;

/// An open file of one guest.
#[derive(Debug, Clone, Copy)]
struct Open {
    node: u64,
    handle: u64,
}

fn body(open: Open, owner: u64, lock_type: i32, (first, last): (u64, u64), flags: u32) -> Vec<u8> {
    let body = Vec::new().u64(open.handle).u64(owner).u64(first).u64(last);
    body.u32(lock_type.cast_unsigned()).u32(4711).u32(flags).u32(0)
}

fn lock(guest: &mut Guest, open: Open, owner: u64, lock_type: i32, range: (u64, u64)) -> Answer {
    guest.call(opcode::SETLK, open.node, &body(open, owner, lock_type, range, 0))
}

fn flock(guest: &mut Guest, open: Open, lock_type: i32) -> Answer {
    guest.call(opcode::SETLK, open.node, &body(open, open.handle, lock_type, WHOLE, 1))
}

fn open_file(guest: &mut Guest, share: u64, flags: i32) -> Open {
    let (told, handle) = guest.create(share, b"file", flags, 0o644).unwrap();
    let node = told.node;
    Open { node, handle }
}

/// Two guests that share a directory, each with an open file of it.
fn two_guests() -> ((Guest, Open), (Guest, Open)) {
    let (mut first, share) = Guest::with_threads();
    let (mut second, _) = Guest::with_share();
    let of_first = open_file(&mut first, share, libc::O_RDWR);
    let path = first.path("");
    let share = second.share("shared", &path, false);
    let of_second = open_file(&mut second, share, libc::O_RDWR);
    ((first, of_first), (second, of_second))
}

#[test]
fn two_guests_exclude_each_other() {
    let ((mut first, a), (mut second, b)) = two_guests();
    assert_eq!(lock(&mut first, a, 1, EXCLUSIVE, (0, 9)), Ok(vec![]));
    assert_eq!(lock(&mut second, b, 1, SHARED, (5, 5)), Err(libc::EAGAIN));
    assert_eq!(lock(&mut second, b, 1, EXCLUSIVE, (10, 19)), Ok(vec![]));
    assert_eq!(flock(&mut first, a, EXCLUSIVE), Ok(vec![]));
    assert_eq!(flock(&mut second, b, SHARED), Err(libc::EAGAIN));
    assert_eq!(lock(&mut first, a, 1, UNLOCK, WHOLE), Ok(vec![]));
    assert_eq!(lock(&mut second, b, 1, EXCLUSIVE, WHOLE), Ok(vec![]));
    // The end of a guest ends its locks.
    second.end();
    assert_eq!(lock(&mut first, a, 1, EXCLUSIVE, WHOLE), Ok(vec![]));
}

#[test]
fn owners_in_one_guest_exclude_each_other_but_not_themselves() {
    let (mut guest, share) = Guest::with_share();
    let first = open_file(&mut guest, share, libc::O_RDWR);
    let second = open_file(&mut guest, share, libc::O_RDWR);
    assert_eq!(lock(&mut guest, first, 1, EXCLUSIVE, (0, 9)), Ok(vec![]));
    assert_eq!(lock(&mut guest, first, 2, EXCLUSIVE, (0, 9)), Err(libc::EAGAIN));
    // The same process, through another of its descriptors.
    assert_eq!(lock(&mut guest, second, 1, EXCLUSIVE, (0, 19)), Ok(vec![]));
    assert_eq!(lock(&mut guest, second, 1, UNLOCK, (0, 9)), Ok(vec![]));
    assert_eq!(lock(&mut guest, first, 2, EXCLUSIVE, (0, 9)), Ok(vec![]));
}

#[test]
fn conflicting_locks_are_reported() {
    let ((mut first, a), (mut second, b)) = two_guests();
    lock(&mut first, a, 1, EXCLUSIVE, (10, 19)).unwrap();
    let get = |guest: &mut Guest, open: Open, owner| {
        let answer = guest.call(opcode::GETLK, open.node, &body(open, owner, SHARED, (0, 15), 0));
        let answer = answer.unwrap();
        let mut fields = Fields::new(&answer);
        let range = (fields.u64().unwrap(), fields.u64().unwrap());
        (range, fields.u32().unwrap().cast_signed())
    };
    assert_eq!(get(&mut second, b, 1), ((10, 19), EXCLUSIVE));
    assert_eq!(get(&mut first, a, 2), ((10, 19), EXCLUSIVE));
    assert_eq!(get(&mut first, a, 1), ((0, 15), UNLOCK));
}

#[test]
fn closing_a_file_ends_its_owner_s_locks() {
    let ((mut first, a), (mut second, b)) = two_guests();
    lock(&mut first, a, 1, EXCLUSIVE, WHOLE).unwrap();
    let flush = |owner| Vec::new().u64(a.handle).u64(0).u64(owner);
    first.call(opcode::FLUSH, a.node, &flush(2)).unwrap();
    assert_eq!(lock(&mut second, b, 1, SHARED, WHOLE), Err(libc::EAGAIN));
    first.call(opcode::FLUSH, a.node, &flush(1)).unwrap();
    assert_eq!(lock(&mut second, b, 1, SHARED, WHOLE), Ok(vec![]));
    // A lock whose owner is the open file.
    flock(&mut first, a, EXCLUSIVE).unwrap();
    lock(&mut first, a, 3, SHARED, WHOLE).unwrap();
    first.release(a.node, a.handle).unwrap();
    assert_eq!(flock(&mut second, b, EXCLUSIVE), Ok(vec![]));
    assert_eq!(lock(&mut second, b, 1, EXCLUSIVE, WHOLE), Ok(vec![]));
    assert_eq!(first.file_system().locks.count(), 0);
}

#[test]
fn a_lock_is_free_for_the_request_after_the_one_that_closes_the_file() {
    let (mut guest, share) = Guest::with_threads();
    for flags in [0, 1] {
        for owner in 0..50 {
            let closed = open_file(&mut guest, share, libc::O_RDWR);
            let next = open_file(&mut guest, share, libc::O_RDWR);
            let request = |open: Open| body(open, 2 * owner, EXCLUSIVE, WHOLE, flags);
            guest.call(opcode::SETLK, closed.node, &request(closed)).unwrap();
            // As the kernel does it: both are on their way at the same time.
            let release = Vec::new().u64(closed.handle).u32(0).u32(2 * flags).u64(0);
            guest.send(opcode::RELEASE, closed.node, &release);
            let next_request = body(next, 2 * owner + 1, EXCLUSIVE, WHOLE, flags);
            guest.send(opcode::SETLK, next.node, &next_request);
            let answers = [guest.receive(), guest.receive()];
            assert!(answers.iter().all(|(_, answer)| answer.is_ok()), "{answers:?}");
            guest.release(next.node, next.handle).unwrap();
        }
    }
}

#[test]
fn a_request_waits_for_a_lock_while_others_are_served() {
    for flags in [0, 1] {
        let ((mut first, a), (mut second, b)) = two_guests();
        let request = |open: Open, lock_type| body(open, 1, lock_type, WHOLE, flags);
        first.call(opcode::SETLK, a.node, &request(a, EXCLUSIVE)).unwrap();
        let waiting = second.send(opcode::SETLKW, b.node, &request(b, EXCLUSIVE));
        for _ in 0..20 {
            assert!(second.attributes(b.node).is_ok());
        }
        first.call(opcode::SETLK, a.node, &request(a, UNLOCK)).unwrap();
        assert_eq!(second.receive(), (waiting, Ok(vec![])));
        let again = first.call(opcode::SETLK, a.node, &request(a, SHARED));
        assert_eq!(again, Err(libc::EAGAIN));
    }
}

#[test]
fn only_some_requests_may_wait_at_a_time() {
    let (mut guest, share) = Guest::with_threads();
    let open = open_file(&mut guest, share, libc::O_RDWR);
    flock(&mut guest, open, EXCLUSIVE).unwrap();
    let other = open_file(&mut guest, share, libc::O_RDWR);
    let request = body(other, 1, EXCLUSIVE, WHOLE, 1);
    let mut waiting = Vec::new();
    // The one that finds no place is answered at once.
    let refused = loop {
        waiting.push(guest.send(opcode::SETLKW, other.node, &request));
        if waiting.len() == 33 {
            break guest.receive();
        }
    };
    assert_eq!(refused.1, Err(libc::ENOLCK));
    let unlock = body(open, open.handle, UNLOCK, WHOLE, 1);
    waiting.push(guest.send(opcode::SETLK, open.node, &unlock));
    // All others get it: they are one open file.
    let mut answered: Vec<u64> = (1..waiting.len()).map(|_| guest.receive().0).collect();
    answered.push(refused.0);
    answered.sort_unstable();
    assert_eq!(answered, waiting);
}

#[test]
fn a_server_ends_while_requests_wait_for_locks() {
    let ((mut first, a), (mut second, b)) = two_guests();
    flock(&mut first, a, EXCLUSIVE).unwrap();
    second.send(opcode::SETLKW, b.node, &body(b, 1, EXCLUSIVE, WHOLE, 1));
    assert!(second.attributes(b.node).is_ok());
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        second.end();
        done.send(()).unwrap();
    });
    ended.recv_timeout(Duration::from_secs(60)).unwrap();
}

#[test]
fn the_number_of_owners_is_bounded() {
    let (mut guest, share) = Guest::with_share();
    let open = open_file(&mut guest, share, libc::O_RDWR);
    for owner in 0..20 {
        assert_eq!(lock(&mut guest, open, owner, SHARED, WHOLE), Ok(vec![]));
    }
    assert_eq!(lock(&mut guest, open, 20, SHARED, WHOLE), Err(libc::ENOLCK));
    // Unlocking what is not locked needs nothing.
    assert_eq!(lock(&mut guest, open, 21, UNLOCK, WHOLE), Ok(vec![]));
}

#[test]
fn the_number_of_locked_ranges_is_bounded() {
    let (mut guest, share) = Guest::with_share();
    let open = open_file(&mut guest, share, libc::O_RDWR);
    for index in 0..50 {
        let owner = index % 2;
        assert_eq!(
            lock(&mut guest, open, owner, EXCLUSIVE, (2 * index, 2 * index)),
            Ok(vec![])
        );
    }
    assert_eq!(lock(&mut guest, open, 0, EXCLUSIVE, (200, 200)), Err(libc::ENOLCK));
    let waiting = guest.call(opcode::SETLKW, open.node, &body(open, 0, EXCLUSIVE, (200, 200), 0));
    assert_eq!(waiting, Err(libc::ENOLCK));
    // What has a lock can be locked again, and one that ends makes room.
    assert_eq!(lock(&mut guest, open, 0, SHARED, (0, 0)), Ok(vec![]));
    assert_eq!(lock(&mut guest, open, 0, UNLOCK, (0, 0)), Ok(vec![]));
    assert_eq!(lock(&mut guest, open, 0, EXCLUSIVE, (200, 209)), Ok(vec![]));
    assert_eq!(lock(&mut guest, open, 0, UNLOCK, (205, 205)), Err(libc::ENOLCK));
    let flush = Vec::new().u64(open.handle).u64(0).u64(1);
    guest.call(opcode::FLUSH, open.node, &flush).unwrap();
    assert_eq!(lock(&mut guest, open, 0, UNLOCK, (205, 205)), Ok(vec![]));
    assert_eq!(lock(&mut guest, open, 2, SHARED, (205, 205)), Ok(vec![]));
}

#[test]
fn locks_of_a_read_only_share_are_shared() {
    let (mut guest, share) = Guest::with_read_only_share();
    std::fs::write(guest.path("file"), "").unwrap();
    let node = guest.look_up(share, b"file").unwrap().node;
    let (handle, _) = guest.open(node, libc::O_RDONLY).unwrap();
    let open = Open { node, handle };
    assert_eq!(lock(&mut guest, open, 1, SHARED, WHOLE), Ok(vec![]));
    assert_eq!(lock(&mut guest, open, 1, EXCLUSIVE, WHOLE), Err(libc::EBADF));
    assert_eq!(flock(&mut guest, open, EXCLUSIVE), Ok(vec![]));
}
