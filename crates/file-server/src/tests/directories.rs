//! Reading directories.

use std::collections::BTreeSet;
use std::fs;

use super::guest::{Append, Guest, told};
use crate::inodes::ROOT;
use crate::protocol::fields::Fields;
use crate::protocol::opcode;

/// An entry: name, type, where to continue, and its inode's number (0 if it was not looked up).
type Entry = (Vec<u8>, u32, u64, u64);

fn parse(body: &[u8], plus: bool) -> Vec<Entry> {
    let mut fields = Fields::new(body);
    let mut entries = Vec::new();
    while fields.end().is_err() {
        let node = if plus { told(fields.bytes(128).unwrap()).node } else { 0 };
        let _inode = fields.u64().unwrap();
        let offset = fields.u64().unwrap();
        let length = usize::try_from(fields.u32().unwrap()).unwrap();
        let file_type = fields.u32().unwrap();
        let name = fields.bytes(length).unwrap().to_vec();
        fields.skip(length.next_multiple_of(8) - length).unwrap();
        entries.push((name, file_type, offset, node));
    }
    entries
}

fn read(guest: &mut Guest, opcode: u32, (node, handle): (u64, u64), offset: u64, size: u32) -> Result<Vec<Entry>, i32> {
    let body = Vec::new().u64(handle).u64(offset).u32(size).raw(&[0; 20]);
    let body = guest.call(opcode, node, &body)?;
    assert!(body.len() <= usize::try_from(size).unwrap());
    Ok(parse(&body, opcode == opcode::READDIRPLUS))
}

/// Reads all entries in replies of at most `size` bytes.
fn read_all(guest: &mut Guest, opcode: u32, node: u64, size: u32) -> Vec<Entry> {
    let handle = guest.open_directory(node).unwrap();
    let mut all = Vec::new();
    let mut offset = 0;
    loop {
        let entries = read(guest, opcode, (node, handle), offset, size).unwrap();
        let Some((_, _, last, _)) = entries.last() else {
            return all;
        };
        offset = *last;
        all.extend(entries);
    }
}

fn names(entries: &[Entry]) -> BTreeSet<Vec<u8>> {
    let names: BTreeSet<_> = entries.iter().map(|(name, ..)| name.clone()).collect();
    assert_eq!(names.len(), entries.len(), "an entry was read twice");
    names
}

#[test]
fn all_entries_are_read_once_however_small_the_replies_are() {
    let (mut guest, share) = Guest::with_share();
    let mut expected = BTreeSet::from([b".".to_vec(), b"..".to_vec()]);
    for number in 0..300 {
        let name = format!("{number:0>20}");
        fs::write(guest.path(&name), "").unwrap();
        expected.insert(name.into_bytes());
    }
    for size in [200, 4096, 1 << 20] {
        let entries = read_all(&mut guest, opcode::READDIR, share, size);
        assert_eq!(names(&entries), expected, "{size}");
        let entries = read_all(&mut guest, opcode::READDIRPLUS, share, size);
        assert_eq!(names(&entries), expected, "{size}");
    }
}

#[test]
fn entries_have_types_and_with_plus_inodes_that_count_as_looked_up() {
    let (mut guest, share) = Guest::with_share();
    fs::write(guest.path("file"), "content").unwrap();
    fs::create_dir(guest.path("directory")).unwrap();
    std::os::unix::fs::symlink("file", guest.path("link")).unwrap();
    let entries = read_all(&mut guest, opcode::READDIRPLUS, share, 4096);
    for (name, file_type, _, node) in entries {
        let expected = match name.as_slice() {
            b"file" => libc::DT_REG,
            b"link" => libc::DT_LNK,
            _ => libc::DT_DIR,
        };
        assert!([0, u32::from(expected)].contains(&file_type));
        let is_dots = name.starts_with(b".");
        assert_eq!(node == 0, is_dots);
        if !is_dots {
            assert_eq!(guest.look_up(share, &name).unwrap().node, node);
            guest.forget(node, 1);
            assert!(guest.attributes(node).is_ok());
            guest.forget(node, 1);
            assert_eq!(guest.attributes(node), Err(libc::ESTALE));
        }
    }
}

#[test]
fn a_reply_without_room_for_an_entry_has_none() {
    let (mut guest, share) = Guest::with_share();
    let handle = guest.open_directory(share).unwrap();
    for opcode in [opcode::READDIR, opcode::READDIRPLUS] {
        assert_eq!(read(&mut guest, opcode, (share, handle), 0, 10), Ok(vec![]));
    }
}

#[test]
fn an_offset_that_no_directory_has_is_refused() {
    let (mut guest, share) = Guest::with_share();
    let handle = guest.open_directory(share).unwrap();
    let result = read(&mut guest, opcode::READDIR, (share, handle), u64::MAX, 4096);
    assert_eq!(result, Err(libc::EINVAL));
}

#[test]
fn the_root_directory_lists_the_shares() {
    let (mut guest, _) = Guest::with_share();
    guest.add_share("second", true);
    for opcode in [opcode::READDIR, opcode::READDIRPLUS] {
        for size in [200, 4096] {
            let entries = read_all(&mut guest, opcode, ROOT, size);
            let listed: Vec<_> = entries.iter().map(|(name, ..)| name.as_slice()).collect();
            assert_eq!(listed, [b".".as_slice(), b"..", b"data", b"second"]);
        }
    }
    let handle = guest.open_directory(ROOT).unwrap();
    let beyond = read(&mut guest, opcode::READDIR, (ROOT, handle), u64::MAX, 4096);
    assert_eq!(beyond, Ok(vec![]));
    let sync = Vec::new().u64(handle).u32(0).u32(0);
    assert_eq!(guest.call(opcode::FSYNCDIR, ROOT, &sync), Ok(vec![]));
}

#[test]
fn directories_and_files_have_their_own_handles() {
    let (mut guest, share) = Guest::with_share();
    let (file, file_handle) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let handle = guest.open_directory(share).unwrap();
    assert_eq!(guest.read(share, handle, 0, 10), Err(libc::EBADF));
    let wrong = read(&mut guest, opcode::READDIR, (file.node, file_handle), 0, 4096);
    assert_eq!(wrong, Err(libc::EBADF));
    assert_eq!(guest.open_directory(file.node), Err(libc::ENOTDIR));
    assert_eq!(guest.open(share, libc::O_RDONLY), Err(libc::EISDIR));
    let sync = Vec::new().u64(handle).u32(1).u32(0);
    assert_eq!(guest.call(opcode::FSYNCDIR, share, &sync), Ok(vec![]));
    assert_eq!(guest.release(share, handle), Err(libc::EBADF));
    let release = Vec::new().u64(handle).u32(0).u32(0).u64(0);
    assert_eq!(guest.call(opcode::RELEASEDIR, share, &release), Ok(vec![]));
    assert_eq!(guest.call(opcode::RELEASEDIR, share, &release), Err(libc::EBADF));
}
