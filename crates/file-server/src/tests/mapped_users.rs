//! Pods with their own user namespace: the guest's kernel maps the users of its mounts.

use std::os::unix::fs::MetadataExt;

use super::guest::{Append, Guest};
use crate::inodes::ROOT;
use crate::protocol::fields::Fields;
use crate::protocol::opcode;
use crate::share::MAX_SHARES;

/// What Linux tells instead of a user in requests that create nothing (`FUSE_INVALID_UIDGID`).
const NO_USER: u32 = u32::MAX;

#[test]
fn the_guest_may_map_users_only_if_its_pod_has_a_user_namespace() {
    for (mut guest, expected) in [(Guest::with_share().0, 0), (Guest::mapping_users().0, 1)] {
        let answer = guest.initialize().unwrap();
        let mut fields = Fields::new(&answer);
        fields.skip(32).unwrap();
        // `FUSE_ALLOW_IDMAP` is bit 8 of the second word.
        assert_eq!(fields.u32().unwrap() >> 8 & 1, expected);
    }
}

#[test]
fn only_what_creates_files_needs_a_user() {
    let (mut guest, share) = Guest::mapping_users();
    let (told, handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    assert_eq!((told.uid, told.gid), (guest.uid, guest.gid));
    (guest.uid, guest.gid) = (NO_USER, NO_USER);
    assert_eq!(guest.write(told.node, handle, 0, b"content"), Ok(7));
    assert_eq!(guest.read(told.node, handle, 0, 100).unwrap(), b"content");
    let rename = Vec::new().u64(share).u32(0).u32(0).text(b"file").text(b"other");
    assert_eq!(guest.call(opcode::RENAME2, share, &rename), Ok(vec![]));
    assert_eq!(guest.make_directory(share, b"directory", 0o755), Err(libc::EINVAL));
    assert_eq!(guest.create(share, b"new", libc::O_RDWR, 0o644), Err(libc::EINVAL));
    assert!(!guest.path("new").exists());
}

#[test]
fn all_shares_are_one_file_system() {
    let (mut guest, share) = Guest::mapping_users();
    assert!(!guest.look_up(ROOT, b"data").unwrap().is_submount);
    std::fs::write(guest.path("file"), "content").unwrap();
    let told = guest.look_up(share, b"file").unwrap();
    assert_eq!(guest.attributes(told.node).unwrap().inode, told.inode);
    let on_host = std::fs::metadata(guest.path("file")).unwrap();
    // The first share, whatever the host's mount is.
    assert_eq!(told.inode, on_host.ino() ^ 1 << 48);
    assert_eq!(guest.call(opcode::SYNCFS, ROOT, &[0; 8]), Ok(vec![]));

    let handle = guest.open_directory(share).unwrap();
    let read = Vec::new().u64(handle).u64(0).u32(4096).u32(0).u64(0).u32(0).u32(0);
    let entries = guest.call(opcode::READDIR, share, &read).unwrap();
    let numbers = entry_numbers(&entries);
    assert!(numbers.contains(&(told.inode, b"file".to_vec())), "{numbers:?}");
}

#[test]
fn a_mount_below_a_share_has_other_inode_numbers_or_is_a_submount() {
    let root = std::path::Path::new("/");
    let (mut guest, _) = Guest::mapping_users();
    let share = guest.share("root", root, true);
    let place = |inode: u64| inode >> 48;
    assert!(place(guest.attributes(share).unwrap().inode) <= MAX_SHARES as u64);
    let process_files = guest.look_up(share, b"proc").unwrap();
    assert_eq!(place(process_files.inode), 1 + MAX_SHARES as u64);
    assert!(!process_files.is_submount);

    let (mut guest, _) = Guest::with_share();
    let share = guest.share("root", root, true);
    assert!(guest.look_up(share, b"proc").unwrap().is_submount);
}

/// The inodes and names of `struct fuse_dirent`.
fn entry_numbers(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut fields = Fields::new(bytes);
        let inode = fields.u64().unwrap();
        fields.skip(8).unwrap();
        let length = usize::try_from(fields.u32().unwrap()).unwrap();
        found.push((inode, bytes[24..24 + length].to_vec()));
        bytes = &bytes[(24 + length).next_multiple_of(8)..];
    }
    found
}
