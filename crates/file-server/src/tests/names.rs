//! Names: creating, linking, renaming, removing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::guest::{Append, Guest, SetRequest, told};
use crate::protocol::opcode;

fn rename(guest: &mut Guest, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<Vec<u8>, i32> {
    let body = Vec::new().u64(to.0).u32(flags).u32(0).text(from.1).text(to.1);
    guest.call(opcode::RENAME2, from.0, &body)
}

#[test]
fn a_created_file_belongs_to_the_caller_with_its_umask() {
    let (mut guest, share) = Guest::with_share();
    let flags = libc::O_RDWR | libc::O_CREAT;
    let (told, _) = guest
        .create_with(opcode::CREATE, share, b"file", flags, (libc::S_IFREG | 0o666, 0o027))
        .unwrap();
    assert_eq!(told.mode, libc::S_IFREG | 0o640);
    assert_eq!((told.uid, told.gid), (guest.uid, guest.gid));
    assert_eq!(fs::metadata(guest.path("file")).unwrap().mode(), libc::S_IFREG | 0o640);
}

#[test]
fn an_existing_file_is_opened_unless_it_must_be_new() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("file"), "content").unwrap();
    let (told, handle) = guest.create(share, b"file", libc::O_RDWR, 0o600).unwrap();
    assert_eq!(guest.read(told.node, handle, 0, 100).unwrap(), b"content");
    let exclusive = guest.create(share, b"file", libc::O_RDWR | libc::O_EXCL, 0o600);
    assert_eq!(exclusive, Err(libc::EEXIST));
    guest
        .create(share, b"file", libc::O_RDWR | libc::O_TRUNC, 0o600)
        .unwrap();
    assert_eq!(fs::read(guest.path("file")).unwrap(), b"");
}

#[test]
fn names_are_bytes() {
    let (mut guest, share) = Guest::with_share();
    for name in [
        b"\xff\xfe".as_slice(),
        b"a\nb",
        b"...",
        b" ",
        "ä€".as_bytes(),
        &[b'x'; 255],
    ] {
        let created = guest.create(share, name, libc::O_RDWR, 0o644).unwrap().0;
        assert_eq!(guest.look_up(share, name).unwrap().node, created.node);
        let path = guest.path("").join(OsStr::from_bytes(name));
        assert_eq!(fs::metadata(path).unwrap().ino(), created.inode);
    }
    let long = guest.create(share, &[b'x'; 256], libc::O_RDWR, 0o644);
    assert_eq!(long, Err(libc::ENAMETOOLONG));
}

#[test]
fn hard_links_are_one_inode() {
    let (mut guest, share) = Guest::with_share();
    let (first, handle) = guest.create(share, b"first", libc::O_RDWR, 0o644).unwrap();
    let body = Vec::new().u64(first.node).text(b"second");
    let second = told(&guest.call(opcode::LINK, share, &body).unwrap());
    assert_eq!((second.node, second.inode, second.links), (first.node, first.inode, 2));
    assert_eq!(guest.look_up(share, b"second").unwrap().node, first.node);
    guest.call(opcode::UNLINK, share, &Vec::new().text(b"first")).unwrap();
    guest.write(first.node, handle, 0, b"x").unwrap();
    assert_eq!(fs::read(guest.path("second")).unwrap(), b"x");
    assert_eq!(guest.attributes(first.node).unwrap().links, 1);
}

#[test]
fn a_symbolic_link_is_text() {
    let (mut guest, share) = Guest::with_share();
    let body = Vec::new().text(b"link").text(b"/etc/../\xff");
    let link = told(&guest.call(opcode::SYMLINK, share, &body).unwrap());
    assert_eq!(link.mode & libc::S_IFMT, libc::S_IFLNK);
    let target = guest.call(opcode::READLINK, link.node, &[]).unwrap();
    assert_eq!(target, b"/etc/../\xff");
    assert_eq!(guest.call(opcode::READLINK, share, &[]), Err(libc::EINVAL));
    // Its own name, owner and times, not those of its target.
    let body = Vec::new().u64(link.node).text(b"again");
    assert_eq!(told(&guest.call(opcode::LINK, share, &body).unwrap()).node, link.node);
    let times = SetRequest {
        valid: 1 << 5,
        modified: 1_000_000,
        ..SetRequest::default()
    };
    guest.set_attributes(link.node, times).unwrap();
    assert_eq!(fs::symlink_metadata(guest.path("link")).unwrap().mtime(), 1_000_000);
}

#[test]
fn fifos_and_sockets_are_created_but_not_opened_and_devices_are_neither() {
    let (mut guest, share) = Guest::with_share();
    let mut node = |name: &[u8], mode: u32| {
        let body = Vec::new().u32(mode).u32(0x103).u32(0).u32(0).text(name);
        guest.call(opcode::MKNOD, share, &body).map(|body| told(&body))
    };
    let fifo = node(b"fifo", libc::S_IFIFO | 0o644).unwrap();
    let socket = node(b"socket", libc::S_IFSOCK | 0o644).unwrap();
    node(b"file", libc::S_IFREG | 0o644).unwrap();
    for device in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR, libc::S_IFLNK, 0xf000] {
        assert_eq!(node(b"device", device | 0o644), Err(libc::EPERM));
    }
    let file_type = |name| fs::metadata(guest.path(name)).unwrap().file_type();
    assert!(file_type("fifo").is_fifo() && file_type("socket").is_socket());
    for special in [fifo, socket] {
        for flags in [libc::O_RDONLY, libc::O_RDWR, libc::O_WRONLY | libc::O_NONBLOCK] {
            assert_eq!(guest.open(special.node, flags), Err(libc::ENXIO));
        }
    }
    // Not even by a name that exists already, which would block.
    assert_eq!(guest.create(share, b"fifo", libc::O_WRONLY, 0o644), Err(libc::ESTALE));
}

#[test]
fn renames_replace_exchange_or_refuse() {
    let (mut guest, share) = Guest::with_share();
    let directory = guest.make_directory(share, b"directory", 0o755).unwrap();
    let (a, _) = guest.create(share, b"a", libc::O_RDWR, 0o644).unwrap();
    let (b, _) = guest.create(directory.node, b"b", libc::O_RDWR, 0o644).unwrap();
    let (from, to) = ((share, b"a".as_slice()), (directory.node, b"b".as_slice()));
    assert_eq!(rename(&mut guest, from, to, libc::RENAME_NOREPLACE), Err(libc::EEXIST));
    assert_eq!(rename(&mut guest, from, to, libc::RENAME_WHITEOUT), Err(libc::EINVAL));
    assert_eq!(rename(&mut guest, from, to, 1 << 9), Err(libc::EINVAL));
    rename(&mut guest, from, to, libc::RENAME_EXCHANGE).unwrap();
    assert_eq!(guest.look_up(share, b"a").unwrap().node, b.node);
    assert_eq!(guest.look_up(directory.node, b"b").unwrap().node, a.node);
    rename(&mut guest, from, to, 0).unwrap();
    assert_eq!(guest.look_up(share, b"a"), Err(libc::ENOENT));
    assert_eq!(guest.look_up(directory.node, b"b").unwrap().node, b.node);
    // RENAME, of older kernels.
    let body = Vec::new().u64(share).text(b"b").text(b"c");
    guest.call(opcode::RENAME, directory.node, &body).unwrap();
    assert_eq!(guest.look_up(share, b"c").unwrap().node, b.node);
}

#[test]
fn directories_and_files_are_removed_by_their_own_operations() {
    let (mut guest, share) = Guest::with_share();
    let directory = guest.make_directory(share, b"directory", 0o750).unwrap();
    assert_eq!(directory.mode, libc::S_IFDIR | 0o750);
    guest.create(directory.node, b"file", libc::O_RDWR, 0o644).unwrap();
    let name = |name: &[u8]| Vec::new().text(name);
    let not_empty = guest.call(opcode::RMDIR, share, &name(b"directory"));
    assert_eq!(not_empty, Err(libc::ENOTEMPTY));
    assert_eq!(
        guest.call(opcode::UNLINK, share, &name(b"directory")),
        Err(libc::EISDIR)
    );
    assert_eq!(
        guest.call(opcode::RMDIR, directory.node, &name(b"file")),
        Err(libc::ENOTDIR)
    );
    guest.call(opcode::UNLINK, directory.node, &name(b"file")).unwrap();
    guest.call(opcode::RMDIR, share, &name(b"directory")).unwrap();
    assert!(!guest.path("directory").exists());
    // It stays usable for a process that is in it.
    assert_eq!(guest.attributes(directory.node).unwrap().links, 0);
    assert_eq!(
        guest.create(directory.node, b"x", libc::O_RDWR, 0o644),
        Err(libc::ENOENT)
    );
}

#[test]
fn a_temporary_file_has_no_name_until_it_is_linked() {
    let (mut guest, share) = Guest::with_share();
    let create =
        |guest: &mut Guest, flags| guest.create_with(opcode::TMPFILE, share, b"/", libc::O_RDWR | flags, (0o600, 0));
    let (file, handle) = create(&mut guest, 0).unwrap();
    assert_eq!(file.links, 0);
    guest.write(file.node, handle, 0, b"content").unwrap();
    assert_eq!(fs::read_dir(guest.path("")).unwrap().count(), 0);
    let body = Vec::new().u64(file.node).text(b"named");
    guest.call(opcode::LINK, share, &body).unwrap();
    assert_eq!(fs::read(guest.path("named")).unwrap(), b"content");
    // With O_EXCL it never has one.
    let (exclusive, _) = create(&mut guest, libc::O_EXCL).unwrap();
    let body = Vec::new().u64(exclusive.node).text(b"never");
    assert_eq!(guest.call(opcode::LINK, share, &body), Err(libc::ENOENT));
}

#[test]
fn mode_and_times_change() {
    let (mut guest, share) = Guest::with_share();
    let (file, _) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let request = SetRequest {
        valid: 1 | 1 << 4 | 1 << 5,
        mode: libc::S_IFREG | 0o4711,
        accessed: 5,
        modified: (-7i64).cast_unsigned(),
        ..SetRequest::default()
    };
    assert_eq!(
        guest.set_attributes(file.node, request).unwrap().mode,
        libc::S_IFREG | 0o4711
    );
    let metadata = fs::metadata(guest.path("file")).unwrap();
    assert_eq!((metadata.atime(), metadata.mtime()), (5, -7));
    let (uid, gid) = (guest.uid, guest.gid);
    let owner = SetRequest {
        valid: 1 << 1 | 1 << 2,
        uid,
        gid,
        ..SetRequest::default()
    };
    assert_eq!(guest.set_attributes(file.node, owner).unwrap().uid, uid);
    let nobody = SetRequest { uid: u32::MAX, ..owner };
    assert_eq!(guest.set_attributes(file.node, nobody), Err(libc::EINVAL));
}

#[test]
fn deep_trees_are_reached() {
    let (mut guest, share) = Guest::with_share();
    let mut parent = share;
    // Far longer than the longest path of the host.
    for _ in 0..200 {
        parent = guest.make_directory(parent, &[b'd'; 200], 0o755).unwrap().node;
    }
    let (file, handle) = guest.create(parent, b"file", libc::O_RDWR, 0o644).unwrap();
    guest.write(file.node, handle, 0, b"deep").unwrap();
    assert_eq!(guest.look_up(parent, b"file").unwrap().size, 4);
}
