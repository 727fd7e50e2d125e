//! Extended attributes.

use super::guest::{Answer, Append, Guest};
use crate::protocol::fields::Fields;
use crate::protocol::opcode;

fn set(guest: &mut Guest, node: u64, name: &[u8], value: &[u8]) -> Answer {
    let length = u32::try_from(value.len()).unwrap();
    let body = Vec::new().u32(length).u32(0).u32(0).u32(0).text(name).raw(value);
    guest.call(opcode::SETXATTR, node, &body)
}

fn get(guest: &mut Guest, node: u64, name: &[u8], size: u32) -> Answer {
    guest.call(opcode::GETXATTR, node, &Vec::new().u32(size).u32(0).text(name))
}

fn list(guest: &mut Guest, node: u64, size: u32) -> Answer {
    guest.call(opcode::LISTXATTR, node, &Vec::new().u32(size).u32(0))
}

fn size(answer: &Answer) -> u32 {
    Fields::new(answer.as_ref().unwrap()).u32().unwrap()
}

#[test]
fn attributes_of_users_are_set_listed_and_removed() {
    let (mut guest, share) = Guest::with_share();
    let (file, _) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let directory = guest.make_directory(share, b"directory", 0o755).unwrap();
    for node in [file.node, directory.node] {
        assert_eq!(get(&mut guest, node, b"user.a", 100), Err(libc::ENODATA));
        assert_eq!(set(&mut guest, node, b"user.a", b"value\0"), Ok(vec![]));
        assert_eq!(set(&mut guest, node, b"user.b", b""), Ok(vec![]));
        assert_eq!(get(&mut guest, node, b"user.a", 100).unwrap(), b"value\0");
        assert_eq!(size(&get(&mut guest, node, b"user.a", 0)), 6);
        assert_eq!(get(&mut guest, node, b"user.a", 5), Err(libc::ERANGE));
        assert_eq!(list(&mut guest, node, 100).unwrap(), b"user.a\0user.b\0");
        assert_eq!(size(&list(&mut guest, node, 0)), 14);
        assert_eq!(list(&mut guest, node, 13), Err(libc::ERANGE));
        let remove = Vec::new().text(b"user.a");
        assert_eq!(guest.call(opcode::REMOVEXATTR, node, &remove), Ok(vec![]));
        assert_eq!(list(&mut guest, node, 100).unwrap(), b"user.b\0");
    }
}

#[test]
fn attributes_of_the_host_are_neither_read_nor_set() {
    let (mut guest, share) = Guest::with_share();
    let (file, _) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    for name in [
        b"trusted.a".as_slice(),
        b"security.selinux",
        b"system.other",
        b"",
        b"user.",
    ] {
        assert_eq!(set(&mut guest, file.node, name, b"x"), Err(libc::EOPNOTSUPP));
        assert_eq!(get(&mut guest, file.node, name, 100), Err(libc::EOPNOTSUPP));
        let remove = Vec::new().text(name);
        assert_eq!(
            guest.call(opcode::REMOVEXATTR, file.node, &remove),
            Err(libc::EOPNOTSUPP)
        );
    }
    let long = [b"user.".as_slice(), &[b'x'; 300]].concat();
    assert_eq!(set(&mut guest, file.node, &long, b"x"), Err(libc::ERANGE));
    assert_eq!(
        set(&mut guest, file.node, b"user.large", &[0; 70_000]),
        Err(libc::E2BIG)
    );
}

#[test]
fn the_flags_of_setting_are_those_of_the_system_call() {
    let (mut guest, share) = Guest::with_share();
    let mut set_with = |flags| {
        let body = Vec::new().u32(1).u32(flags).u32(0).u32(0).text(b"user.a").raw(b"x");
        guest.call(opcode::SETXATTR, share, &body)
    };
    let (create, replace) = (1, 2);
    assert_eq!(set_with(replace), Err(libc::ENODATA));
    assert_eq!(set_with(create), Ok(vec![]));
    assert_eq!(set_with(create), Err(libc::EEXIST));
    assert_eq!(set_with(replace), Ok(vec![]));
    assert_eq!(set_with(4), Err(libc::EINVAL));
}

#[test]
fn a_posix_acl_is_an_attribute_that_can_clear_set_group_id() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let (mut guest, share) = Guest::with_share();
    let (file, _) = guest.create(share, b"file", libc::O_RDWR, 0o755).unwrap();
    let path = guest.path("file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o2755)).unwrap();
    // acl(5), in the format of include/uapi/linux/posix_acl_xattr.h: version, then tag, permissions and id.
    let entry = |acl: Vec<u8>, tag: u16, permissions: u16, id: u32| {
        acl.raw(&tag.to_le_bytes()).raw(&permissions.to_le_bytes()).u32(id)
    };
    let acl = entry(Vec::new().u32(2), 1, 7, u32::MAX);
    let acl = entry(acl, 2, 4, guest.uid);
    let acl = entry(acl, 4, 5, u32::MAX);
    let acl = entry(acl, 0x10, 5, u32::MAX);
    let acl = entry(acl, 0x20, 5, u32::MAX);
    let name = b"system.posix_acl_access";
    let length = u32::try_from(acl.len()).unwrap();
    let kill_sgid = 1;
    let body = Vec::new().u32(length).u32(0).u32(kill_sgid).u32(0).text(name).raw(&acl);
    match guest.call(opcode::SETXATTR, file.node, &body) {
        // The file system of the temporary directory has no ACLs.
        Err(libc::EOPNOTSUPP) => return,
        answer => assert_eq!(answer, Ok(vec![])),
    }
    assert_eq!(get(&mut guest, file.node, name, 100).unwrap(), acl);
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn a_posix_acl_has_a_bounded_length() {
    let (mut guest, share) = Guest::with_share();
    let (file, _) = guest.create(share, b"file", libc::O_RDWR, 0o644).unwrap();
    let no_id = u32::MAX;
    let entry = |acl: Vec<u8>, tag: u16, id: u32| acl.raw(&tag.to_le_bytes()).raw(&4u16.to_le_bytes()).u32(id);
    let acl = |users: u32| {
        let acl = entry(Vec::new().u32(2), 1, no_id);
        let acl = (0..users).fold(acl, |acl, user| entry(acl, 2, 1000 + user));
        [4, 0x10, 0x20].iter().fold(acl, |acl, tag| entry(acl, *tag, no_id))
    };
    let name = b"system.posix_acl_access";
    // The file system of the tests may have none.
    let longest = set(&mut guest, file.node, name, &acl(123));
    assert!(matches!(longest, Ok(_) | Err(libc::EOPNOTSUPP)), "{longest:?}");
    assert_eq!(set(&mut guest, file.node, name, &acl(124)), Err(libc::ENOSPC));
}
