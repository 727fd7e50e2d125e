//! The beginning and the end: INIT, DESTROY, the root directory.

use super::guest::{Append, Guest, LIMITS};
use crate::inodes::ROOT;
use crate::protocol::fields::Fields;
use crate::protocol::opcode;

fn init(major: u32, minor: u32, flags: u32) -> Vec<u8> {
    Vec::new()
        .u32(major)
        .u32(minor)
        .u32(4096)
        .u32(flags)
        .u32(0)
        .raw(&[0; 44])
}

#[test]
fn nothing_is_served_before_the_protocol_is_agreed_on() {
    let mut guest = Guest::unmounted(LIMITS);
    assert_eq!(guest.look_up(ROOT, b"data"), Err(libc::EIO));
    let lock = Vec::new().u64(1).u64(1).u64(0).u64(9).u32(1).u32(0).u32(0).u32(0);
    assert_eq!(guest.call(opcode::SETLKW, 2, &lock), Err(libc::EIO));
    guest.initialize().unwrap();
    assert_eq!(guest.look_up(ROOT, b"data"), Err(libc::ENOENT));
}

#[test]
fn init_answers_with_the_limits_and_only_with_offered_flags() {
    let mut guest = Guest::unmounted(LIMITS);
    let answer = guest.initialize().unwrap();
    assert_eq!(answer.len(), 64);
    let mut fields = Fields::new(&answer);
    assert_eq!((fields.u32(), fields.u32()), (Ok(7), Ok(41)));
    fields.skip(4).unwrap();
    let flags = fields.u32().unwrap();
    let writeback_cache = 1 << 16;
    assert_eq!(flags & writeback_cache, 0);
    fields.skip(4).unwrap();
    let max_write = fields.u32().unwrap();
    assert_eq!(max_write, 1 << 20);
    fields.skip(4).unwrap();
    assert_eq!(fields.u16(), Ok(256));
}

#[test]
fn kernels_with_another_protocol_are_refused() {
    let mut guest = Guest::unmounted(LIMITS);
    for (major, flags) in [(6, u32::MAX), (8, u32::MAX), (7, 0)] {
        let answer = guest.call(opcode::INIT, 0, &init(major, 41, flags));
        assert_eq!(answer, Err(libc::EPROTO));
    }
    assert_eq!(guest.attributes(ROOT), Err(libc::EIO));
}

#[test]
fn destroy_forgets_everything_and_the_guest_can_mount_again() {
    let (mut guest, share) = Guest::with_share();
    let (told, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    assert_eq!(guest.call(opcode::DESTROY, ROOT, &[]), Ok(vec![]));
    assert_eq!(guest.file_system().inodes.count(), 0);
    guest.initialize().unwrap();
    assert_eq!(guest.read(told.node, handle, 0, 10), Err(libc::EBADF));
    assert_eq!(guest.attributes(told.node), Err(libc::ESTALE));
    assert!(guest.look_up(ROOT, b"data").is_ok());
}

#[test]
fn the_server_ends_without_an_error_when_the_guest_does() {
    let (guest, _) = Guest::with_share();
    assert!(guest.end().is_none());
}

#[test]
fn the_root_directory_has_the_shares_and_cannot_be_changed() {
    let (mut guest, _) = Guest::with_share();
    let root = guest.attributes(ROOT).unwrap();
    assert_eq!((root.mode, root.links, root.uid), (libc::S_IFDIR | 0o755, 3, 0));
    guest.add_share("later", true);
    assert!(guest.look_up(ROOT, b"later").is_ok());
    assert_eq!(guest.create(ROOT, b"new", libc::O_RDWR, 0o644), Err(libc::EROFS));
    assert_eq!(guest.make_directory(ROOT, b"new", 0o755), Err(libc::EROFS));
    let name = Vec::new().text(b"data");
    assert_eq!(guest.call(opcode::RMDIR, ROOT, &name), Err(libc::EROFS));
    let rename = Vec::new().u64(ROOT).u32(0).u32(0).text(b"data").text(b"other");
    assert_eq!(guest.call(opcode::RENAME2, ROOT, &rename), Err(libc::EROFS));
    assert!(guest.call(opcode::STATFS, ROOT, &[]).is_ok());
    let list = Vec::new().u32(0).u32(0);
    assert_eq!(guest.call(opcode::LISTXATTR, ROOT, &list), Ok(vec![0; 8]));
}

#[test]
fn a_share_is_a_file_system_of_its_own() {
    let (mut guest, _) = Guest::with_share();
    let share = guest.look_up(ROOT, b"data").unwrap();
    assert!(share.is_submount);
    assert!(share.name_valid_for > 3600);
    let directory = guest.make_directory(share.node, b"directory", 0o755).unwrap();
    assert!(!directory.is_submount);
    assert_eq!(guest.call(opcode::SYNCFS, share.node, &[0; 8]), Ok(vec![]));
}

#[test]
fn a_share_can_be_a_file() {
    let (mut guest, _) = Guest::with_share();
    let path = guest.host("file");
    std::fs::write(&path, "content").unwrap();
    let node = guest.share("file", &path, false);
    let told = guest.look_up(ROOT, b"file").unwrap();
    assert_eq!((told.size, told.is_submount), (7, false));
    let (handle, _) = guest.open(node, libc::O_RDONLY).unwrap();
    assert_eq!(guest.read(node, handle, 0, 100).unwrap(), b"content");
    assert_eq!(guest.look_up(node, b"x"), Err(libc::ENOTDIR));
}
