//! A guest that looks for a way out of its shares, and one that sends garbage.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::guest::{Append, Guest, LIMITS, text};
use crate::inodes::ROOT;
use crate::protocol::MAX_MESSAGE_BYTES;
use crate::protocol::opcode;
use crate::requests::RequestsError;
use crate::server::ServerError;

#[test]
fn a_name_leads_nowhere_but_to_an_entry_of_its_directory() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.host("secret"), "secret").unwrap();
    for name in [
        b"..".as_slice(),
        b".",
        b"",
        b"../secret",
        b"/",
        b"/etc/passwd",
        b"a/../../secret",
    ] {
        assert_eq!(guest.look_up(share, name), Err(libc::EINVAL), "{name:?}");
        assert_eq!(guest.look_up(ROOT, name), Err(libc::EINVAL), "{name:?}");
        assert_eq!(guest.create(share, name, libc::O_RDWR, 0o644), Err(libc::EINVAL));
        assert_eq!(guest.make_directory(share, name, 0o755), Err(libc::EINVAL));
        let rename = Vec::new().u64(share).u32(0).u32(0).text(b"a").text(name);
        assert_eq!(guest.call(opcode::RENAME2, share, &rename), Err(libc::EINVAL));
        let symlink = Vec::new().text(name).text(b"target");
        assert_eq!(guest.call(opcode::SYMLINK, share, &symlink), Err(libc::EINVAL));
    }
}

#[test]
fn a_symbolic_link_out_of_the_share_is_never_followed() {
    let (mut guest, share) = Guest::with_share();
    fs::create_dir(guest.host("outside")).unwrap();
    fs::write(guest.host("outside/secret"), "secret").unwrap();
    let target = text(&guest.host("outside"));
    symlink(guest.host("outside"), guest.path("directory")).unwrap();
    symlink(guest.host("outside/secret"), guest.path("file")).unwrap();
    symlink("/proc/self/root", guest.path("root")).unwrap();
    for name in [b"directory".as_slice(), b"file", b"root"] {
        let link = guest.look_up(share, name).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.look_up(link.node, b"secret"), Err(libc::ENOTDIR));
        assert_eq!(guest.open(link.node, libc::O_RDONLY), Err(libc::ELOOP));
        assert_eq!(guest.open_directory(link.node), Err(libc::ENOTDIR));
        assert_eq!(guest.create(link.node, b"x", libc::O_RDWR, 0o644), Err(libc::ENOTDIR));
        assert_eq!(
            guest.create(share, name, libc::O_RDWR | libc::O_TRUNC, 0o644),
            Err(libc::ESTALE)
        );
        assert_eq!(
            guest.create_with(opcode::TMPFILE, link.node, b"x", libc::O_RDWR, (0o600, 0)),
            Err(libc::ENOTDIR)
        );
        let size = super::guest::SetRequest {
            valid: 1 << 3,
            ..Default::default()
        };
        assert_eq!(guest.set_attributes(link.node, size), Err(libc::ENXIO));
    }
    let told = guest.call(
        opcode::SYMLINK,
        share,
        &Vec::new().text(b"own").raw(target.as_bytes_with_nul()),
    );
    assert!(told.is_ok());
    let own = guest.look_up(share, b"own").unwrap();
    assert_eq!(guest.look_up(own.node, b"secret"), Err(libc::ENOTDIR));
    assert_eq!(fs::read(guest.host("outside/secret")).unwrap(), b"secret");
    assert_eq!(fs::read_dir(guest.host("outside")).unwrap().count(), 1);
}

#[test]
fn magic_links_of_procfs_are_not_followed() {
    let (mut guest, _) = Guest::with_share();
    let share = guest.share("proc", Path::new("/proc/self"), true);
    for name in [b"root".as_slice(), b"cwd", b"exe"] {
        let link = guest.look_up(share, name).unwrap();
        assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
        assert_eq!(guest.look_up(link.node, b"etc"), Err(libc::ENOTDIR));
        assert_eq!(guest.open(link.node, libc::O_RDONLY), Err(libc::ELOOP));
    }
    let descriptors = guest.look_up(share, b"fd").unwrap();
    let socket = guest.look_up(descriptors.node, b"0").unwrap();
    assert_eq!(guest.open(socket.node, libc::O_RDONLY), Err(libc::ELOOP));
}

#[test]
fn a_directory_that_becomes_a_symbolic_link_during_lookups_leads_nowhere_else() {
    let (mut guest, share) = Guest::with_threads();
    fs::create_dir(guest.host("outside")).unwrap();
    fs::write(guest.host("outside/file"), "secret").unwrap();
    fs::create_dir(guest.path("inside")).unwrap();
    fs::write(guest.path("inside/file"), "own").unwrap();
    symlink(guest.host("outside"), guest.path("link")).unwrap();
    let (directory, link) = (guest.path("inside"), guest.path("link"));
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &directory, rustix::fs::CWD, &link, exchange).unwrap();
            }
        });
        let mut found = 0;
        for _ in 0..500 {
            let told = guest.look_up(share, b"inside").unwrap();
            match guest.look_up(told.node, b"file") {
                Ok(file) => {
                    let (handle, _) = guest.open(file.node, libc::O_RDONLY).unwrap();
                    assert_eq!(guest.read(file.node, handle, 0, 100).unwrap(), b"own");
                    guest.release(file.node, handle).unwrap();
                    guest.forget(file.node, 1);
                    found += 1;
                }
                Err(error) => assert_eq!(error, libc::ENOTDIR),
            }
            guest.forget(told.node, 1);
        }
        is_done.store(true, Ordering::Relaxed);
        assert!(found > 0);
    });
}

#[test]
fn a_directory_that_is_moved_keeps_its_inode() {
    let (mut guest, share) = Guest::with_share();
    let directory = guest.make_directory(share, b"a", 0o755).unwrap();
    guest.create(directory.node, b"file", libc::O_RDWR, 0o644).unwrap();
    fs::rename(guest.path("a"), guest.path("b")).unwrap();
    fs::create_dir(guest.path("a")).unwrap();
    assert!(guest.look_up(directory.node, b"file").is_ok());
    assert_eq!(guest.look_up(share, b"b").unwrap().node, directory.node);
    assert_ne!(guest.look_up(share, b"a").unwrap().node, directory.node);
}

#[test]
fn a_device_of_the_host_has_no_number_and_is_not_opened() {
    let (mut guest, _) = Guest::with_share();
    let share = guest.share("devices", Path::new("/dev"), false);
    let null = guest.look_up(share, b"null").unwrap();
    assert_eq!((null.mode & libc::S_IFMT, null.device), (libc::S_IFCHR, 0));
    for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(null.node, flags), Err(libc::ENXIO));
    }
    assert_eq!(guest.create(share, b"null", libc::O_RDWR, 0o644), Err(libc::ESTALE));
}

#[test]
fn numbers_that_the_guest_was_not_told_are_refused() {
    let (mut guest, share) = Guest::with_share();
    let (file, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let (other, _) = guest.create(share, b"other", libc::O_RDWR, 0o644).unwrap();
    for node in [0, 1000, u64::MAX] {
        assert_eq!(guest.look_up(node, b"file"), Err(libc::ESTALE));
        assert_eq!(guest.attributes(node), Err(libc::ESTALE));
        assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::ESTALE));
        assert_eq!(guest.read(node, handle, 0, 1), Err(libc::EBADF));
    }
    for handle in [0, handle + 100, u64::MAX] {
        assert_eq!(guest.read(file.node, handle, 0, 1), Err(libc::EBADF));
        assert_eq!(guest.release(file.node, handle), Err(libc::EBADF));
    }
    // A handle belongs to its inode.
    assert_eq!(guest.write(other.node, handle, 0, b"x"), Err(libc::EBADF));
}

#[test]
fn offsets_beyond_the_largest_file_are_refused() {
    let (mut guest, share) = Guest::with_share();
    let (file, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    for offset in [u64::MAX, u64::MAX - 1, i64::MAX as u64] {
        assert_eq!(guest.read(file.node, handle, offset, 10), Err(libc::EINVAL));
        assert_eq!(guest.write(file.node, handle, offset, b"x"), Err(libc::EINVAL));
    }
    assert_eq!(guest.open(file.node, libc::O_ACCMODE), Err(libc::EINVAL));
}

#[test]
fn a_caller_that_is_no_user_creates_nothing() {
    let (mut guest, share) = Guest::with_share();
    guest.uid = u32::MAX;
    assert_eq!(guest.create(share, b"file", libc::O_RDWR, 0o644), Err(libc::EINVAL));
    assert_eq!(guest.make_directory(share, b"directory", 0o755), Err(libc::EINVAL));
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
}

#[test]
fn malformed_bodies_are_refused_and_the_next_request_is_served() {
    let (mut guest, share) = Guest::with_share();
    for opcode in 1..=60 {
        // These have no replies, or end the session.
        if opcode::is_silent(opcode) || [opcode::DESTROY, opcode::INIT].contains(&opcode) {
            continue;
        }
        let answer = guest.call(opcode, share, &[0xff; 7]);
        assert!(
            matches!(answer, Err(libc::EINVAL | libc::ENOSYS)),
            "{opcode}: {answer:?}"
        );
    }
    guest.send(opcode::FORGET, share, b"short");
    guest.send(opcode::BATCH_FORGET, share, &[0xff; 24]);
    assert!(guest.attributes(share).is_ok());
    assert_eq!(guest.call(u32::MAX, share, b""), Err(libc::ENOSYS));
}

#[test]
fn operations_without_support_are_answered_so_that_the_kernel_does_not_ask_again() {
    let (mut guest, share) = Guest::with_share();
    // ACCESS, INTERRUPT, BMAP, IOCTL, POLL, SETUPMAPPING, REMOVEMAPPING, STATX
    for opcode in [34, 36, 37, 39, 40, 48, 49, 52] {
        assert_eq!(guest.call(opcode, share, &[0; 8]), Err(libc::ENOSYS), "{opcode}");
    }
}

#[test]
fn a_request_with_an_impossible_length_ends_the_server() {
    let longest = u32::try_from(MAX_MESSAGE_BYTES).unwrap();
    for length in [0, 39, longest + 1, u32::MAX] {
        let mut guest = Guest::unmounted(LIMITS);
        let header = Vec::new().u32(length).raw(&[0; 36]);
        guest.send_raw(&header);
        assert!(matches!(
            guest.end(),
            Some(ServerError::Requests(RequestsError::Length))
        ));
    }
}

#[test]
fn the_longest_request_is_served() {
    let (mut guest, share) = Guest::with_share();
    let body = vec![b'x'; MAX_MESSAGE_BYTES - 40];
    assert_eq!(guest.call(opcode::LOOKUP, share, &body), Err(libc::EINVAL));
    let mut body = body;
    *body.last_mut().unwrap() = 0;
    assert_eq!(guest.call(opcode::LOOKUP, share, &body), Err(libc::ENAMETOOLONG));
}

#[test]
fn extensions_at_the_end_of_a_request_are_skipped() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("file"), "").unwrap();
    let body = Vec::new().text(b"file").raw(&[0xee; 16]);
    let length = u32::try_from(40 + body.len()).unwrap();
    let request = Vec::new().u32(length).u32(opcode::LOOKUP).u64(77).u64(share);
    // Two units of 8 bytes.
    let request = request.u32(0).u32(0).u32(0).u32(2).raw(&body);
    guest.send_raw(&request);
    let (unique, answer) = guest.receive();
    assert_eq!(unique, 77);
    assert!(answer.is_ok());
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let (mut guest, share) = Guest::with_threads();
    fs::write(guest.path("file"), "content").unwrap();
    let node = guest.look_up(share, b"file").unwrap().node;
    let (handle, _) = guest.open(node, libc::O_RDONLY).unwrap();
    let read = Vec::new().u64(handle).u64(0).u32(100).raw(&[0; 20]);
    let mut sent: Vec<u64> = (0..500).map(|_| guest.send(opcode::READ, node, &read)).collect();
    while !sent.is_empty() {
        let (unique, answer) = guest.receive();
        assert_eq!(answer.unwrap(), b"content");
        let place = sent.iter().position(|other| *other == unique).unwrap();
        sent.swap_remove(place);
    }
}
