//! Layers that depend on the layers below them.

use super::*;

#[test]
fn directories_without_an_entry_keep_their_attributes_from_below() {
    let base = Tar::new()
        .pax(&[("SCHILY.xattr.user.a", b"b")])
        .add("tmp", EntryType::Directory, b"", |header| {
            header.set_mode(0o1777);
            header.set_uid(7);
        })
        .directory("usr/bin", 0o711)
        .link("bin", EntryType::Symlink, "usr/bin")
        .directory("gone", 0o700)
        .directory("hidden/below", 0o700)
        .finish();
    let middle = Tar::new()
        .file(".wh.gone", b"")
        .file("hidden/.wh..wh..opq", b"")
        .finish();
    let top = Tar::new()
        .file("tmp/x", b"1")
        .file("bin/tool", b"2")
        .file("gone/x", b"3")
        .file("hidden/below/x", b"4")
        .finish();
    let image = convert(&top).unwrap();
    assert!(
        read(&image).contains_key(b"bin/tool".as_slice()),
        "nothing is known about the layers below"
    );
    let below = lower(&[base, middle]);
    let tree = read(&convert_on(&top, Some(&below)).unwrap());
    let tmp = &tree[b"tmp".as_slice()];
    assert_eq!((tmp.mode, tmp.uid, tmp.mtime), (0o041777, 7, (1000, 0)));
    assert_eq!(tmp.xattrs[&(1, b"a".to_vec())], b"b");
    assert!(
        !tree.contains_key(b"bin".as_slice()),
        "the symbolic link below stays and is followed"
    );
    assert_eq!(tree[b"usr/bin/tool".as_slice()].data, b"2");
    assert_eq!(tree[b"usr/bin".as_slice()].mode, 0o040711);
    for name in [b"gone".as_slice(), b"hidden/below"] {
        assert_eq!(tree[name].mode, 0o040755, "{}", name.escape_ascii());
    }
}

#[test]
fn link_targets_in_lower_layers_are_copied() {
    let big = vec![3; 70_000];
    let base = Tar::new()
        .directory("d", 0o750)
        .pax(&[("SCHILY.xattr.security.capability", b"caps")])
        .add("d/file", EntryType::Regular, &big, |header| {
            header.set_mode(0o4755);
            header.set_uid(5);
        })
        .link("d/symlink", EntryType::Symlink, "file")
        .file("removed", b"")
        .finish();
    let below = lower(&[base, Tar::new().file(".wh.removed", b"").finish()]);
    let top = Tar::new()
        .link("one", EntryType::Link, "d/file")
        .link("two", EntryType::Link, "/d/file")
        .link("three", EntryType::Link, "d/symlink")
        .finish();
    let tree = read(&convert_on(&top, Some(&below)).unwrap());
    let one = &tree[b"one".as_slice()];
    assert!(one.data == big && one.links == 3 && one.mode == 0o104755 && one.uid == 5);
    assert_eq!(one.xattrs[&(6, b"capability".to_vec())], b"caps");
    assert_eq!(tree[b"two".as_slice()].nid, one.nid);
    assert_eq!(tree[b"d/file".as_slice()].nid, one.nid);
    assert_eq!(tree[b"d".as_slice()].mode, 0o040750);
    assert_eq!(tree[b"three".as_slice()].data, b"file");
    let removed = Tar::new().link("x", EntryType::Link, "removed").finish();
    assert!(
        convert_on(&removed, Some(&below))
            .unwrap_err()
            .to_string()
            .contains("hard link to removed")
    );
}

#[test]
fn dependence_on_lower_layers_is_recorded() {
    let needs = |tar: Tar| {
        let image = tempfile::tempfile().unwrap();
        let bytes = tar.finish();
        write_layer(
            &mut Cursor::new(&bytes),
            &image,
            scratch(),
            &Limits::default(),
            Compression::None,
            None,
        )
        .unwrap()
        .needs
    };
    let needs = |tar| {
        let needs: Needs = needs(tar);
        (needs.directories, needs.links)
    };
    assert_eq!(needs(Tar::new().directory("a", 0o700).file("a/b", b"")), (false, false));
    assert_eq!(needs(Tar::new().file("a/b", b"")), (true, false));
    assert_eq!(needs(Tar::new().file("a/b", b"").directory("a", 0o700)), (false, false));
    assert_eq!(needs(Tar::new().link("a", EntryType::Link, "b")), (false, true));
}
