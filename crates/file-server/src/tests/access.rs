//! Read-only shares.

use std::fs;

use super::guest::{Append, Guest, SetRequest};
use crate::protocol::opcode;

#[test]
fn nothing_changes_in_a_read_only_share() {
    let (mut guest, share) = Guest::with_read_only_share();
    fs::write(guest.path("file"), "content").unwrap();
    fs::create_dir(guest.path("directory")).unwrap();
    let told = guest.look_up(share, b"file").unwrap();
    assert_eq!(told.name_valid_for, 1);
    let file = told.node;
    let name = |name: &[u8]| Vec::new().text(name);

    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_RDONLY | libc::O_TRUNC] {
        assert_eq!(guest.open(file, flags), Err(libc::EROFS));
    }
    assert_eq!(guest.create(share, b"file", libc::O_RDONLY, 0o644), Err(libc::EROFS));
    let temporary = guest.create_with(opcode::TMPFILE, share, b"x", libc::O_RDWR, (0o600, 0));
    assert_eq!(temporary, Err(libc::EROFS));
    assert_eq!(guest.make_directory(share, b"x", 0o755), Err(libc::EROFS));
    let mut size = SetRequest {
        valid: 1 << 3,
        ..SetRequest::default()
    };
    assert_eq!(guest.set_attributes(file, size), Err(libc::EROFS));
    size.valid = 1 << 5 | 1 << 8;
    assert_eq!(guest.set_attributes(file, size), Err(libc::EROFS));

    let make_node = Vec::new().u32(libc::S_IFIFO | 0o644).u32(0).u32(0).u32(0).text(b"x");
    let symlink = Vec::new().text(b"x").text(b"y");
    let link = Vec::new().u64(file).text(b"x");
    let rename = Vec::new().u64(share).u32(0).u32(0).text(b"file").text(b"x");
    let set = Vec::new().u32(1).u32(0).u32(0).u32(0).text(b"user.a").raw(b"x");
    for (opcode, node, body) in [
        (opcode::UNLINK, share, name(b"file")),
        (opcode::RMDIR, share, name(b"directory")),
        (opcode::MKNOD, share, make_node),
        (opcode::SYMLINK, share, symlink),
        (opcode::LINK, share, link),
        (opcode::RENAME2, share, rename),
        (opcode::SETXATTR, file, set),
        (opcode::REMOVEXATTR, file, name(b"user.a")),
    ] {
        assert_eq!(guest.call(opcode, node, &body), Err(libc::EROFS), "{opcode}");
    }

    let (handle, _) = guest.open(file, libc::O_RDONLY).unwrap();
    assert_eq!(guest.write(file, handle, 0, b"x"), Err(libc::EBADF));
    let allocate = Vec::new().u64(handle).u64(0).u64(100).u32(0).u32(0);
    assert_eq!(guest.call(opcode::FALLOCATE, file, &allocate), Err(libc::EBADF));
    assert_eq!(guest.read(file, handle, 0, 100).unwrap(), b"content");
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 2);
}

#[test]
fn files_of_a_read_only_share_cannot_get_names_in_a_writable_one() {
    let (mut guest, read_only) = Guest::with_read_only_share();
    let writable = guest.add_share("writable", false);
    fs::write(guest.path("file"), "content").unwrap();
    let file = guest.look_up(read_only, b"file").unwrap().node;
    let link = Vec::new().u64(file).text(b"file");
    assert_eq!(guest.call(opcode::LINK, writable, &link), Err(libc::EROFS));
    let rename = Vec::new().u64(writable).u32(0).u32(0).text(b"file").text(b"file");
    assert_eq!(guest.call(opcode::RENAME2, read_only, &rename), Err(libc::EROFS));
    // The same directory as another, writable share has its own inodes.
    let path = guest.path("");
    let again = guest.share("again", &path, false);
    let copy = guest.look_up(again, b"file").unwrap();
    assert!(guest.open(copy.node, libc::O_RDWR).is_ok() == (copy.node != file));
    assert_eq!(guest.open(file, libc::O_RDWR), Err(libc::EROFS));
}
