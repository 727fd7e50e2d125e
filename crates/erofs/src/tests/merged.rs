//! Merging several layers into one image.

use super::*;

fn merged_as(layers: &[Vec<u8>], compression: Compression) -> Result<Vec<u8>, ErofsError> {
    let image = tempfile::tempfile().unwrap();
    let summary = merge(&lower(layers), &image, scratch(), &Limits::default(), compression)?;
    assert!(!summary.needs.any());
    Volume::open(image.try_clone().unwrap()).unwrap().verify().unwrap();
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut &image).unwrap();
    (&image).read_to_end(&mut bytes).unwrap();
    Ok(bytes)
}

fn merged(layers: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Node> {
    read(&merged_as(layers, Compression::None).unwrap())
}

fn names(tree: &BTreeMap<Vec<u8>, Node>) -> Vec<&str> {
    tree.keys().map(|path| std::str::from_utf8(path).unwrap()).collect()
}

#[test]
fn hidden_entries_and_their_whiteouts_are_dropped() {
    let base = Tar::new()
        .directory("d", 0o700)
        .file("d/removed", b"1")
        .file("d/kept", b"2")
        .file("d/replaced", b"3")
        .directory("opaque", 0o700)
        .file("opaque/below", b"4")
        .directory("becomes-file", 0o700)
        .file("becomes-file/x", b"5")
        .file("becomes-directory", b"6")
        .directory("comes-again", 0o700)
        .file("comes-again/old", b"7")
        .finish();
    let middle = Tar::new()
        .directory("d", 0o750)
        .file("d/.wh.removed", b"")
        .file("d/replaced", b"33")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/own", b"44")
        .file("becomes-file", b"55")
        .file(".wh.becomes-directory", b"")
        .file(".wh.comes-again", b"")
        .finish();
    let top = Tar::new()
        .directory("becomes-directory", 0o711)
        .directory("comes-again", 0o711)
        .file("comes-again/new", b"77")
        .finish();
    let tree = merged(&[base, middle, top]);
    assert_eq!(
        names(&tree),
        [
            "",
            "becomes-directory",
            "becomes-file",
            "comes-again",
            "comes-again/new",
            "d",
            "d/kept",
            "d/replaced",
            "opaque",
            "opaque/own"
        ]
    );
    assert_eq!(tree[b"d".as_slice()].mode, 0o040750);
    assert_eq!(tree[b"d/replaced".as_slice()].data, b"33");
    assert_eq!(tree[b"becomes-file".as_slice()].data, b"55");
    assert!(tree.values().all(|node| node.xattrs.is_empty()));
}

#[test]
fn hard_links_stay_hard_links() {
    let base = Tar::new()
        .file("a", b"content")
        .link("b", EntryType::Link, "a")
        .link("z/c", EntryType::Link, "a")
        .file("alone", b"content")
        .finish();
    // Each layer has its own file, with any inode number.
    let middle = Tar::new()
        .file("other", b"content")
        .link("other-too", EntryType::Link, "other")
        .file(".wh.b", b"")
        .finish();
    let tree = merged(&[base, middle]);
    let nid = |name: &str| tree[name.as_bytes()].nid;
    assert_eq!((nid("a"), nid("other")), (nid("z/c"), nid("other-too")));
    let distinct: std::collections::BTreeSet<_> = ["a", "alone", "other"].map(nid).into();
    assert_eq!(distinct.len(), 3);
    // The hidden name does not count.
    assert_eq!((tree[b"a".as_slice()].links, tree[b"alone".as_slice()].links), (2, 1));
}

#[test]
fn every_kind_of_file_keeps_its_attributes_and_content() {
    let big: Vec<u8> = (0..300_000u32).flat_map(|number| (number / 9).to_le_bytes()).collect();
    let layers = [
        Tar::new()
            .directory("./", 0o700)
            .pax(&[("SCHILY.xattr.user.a", b"b"), ("SCHILY.xattr.user.empty", b"")])
            .add("big", EntryType::Regular, &big, |header| {
                header.set_mode(0o4755);
                header.set_uid(70_000);
                header.set_mtime(99);
            })
            .finish(),
        Tar::new()
            .link("symlink", EntryType::Symlink, &"t/".repeat(45))
            .add("device", EntryType::Char, b"", |header| {
                header.set_device_major(5).unwrap();
                header.set_device_minor(1).unwrap();
            })
            .add("fifo", EntryType::Fifo, b"", |_| {})
            .directory("d", 0o1777)
            .finish(),
    ];
    for compression in [Compression::None, Compression::Lz4] {
        let tree = read(&merged_as(&layers, compression).unwrap());
        let file = &tree[b"big".as_slice()];
        assert!(file.data == big && file.mode == 0o104755 && file.uid == 70_000 && file.mtime == (99, 0));
        assert_eq!(file.xattrs[&(1, b"a".to_vec())], b"b");
        assert_eq!(file.xattrs[&(1, b"empty".to_vec())], b"");
        assert_eq!(tree[b"symlink".as_slice()].data, "t/".repeat(45).as_bytes());
        assert_eq!(
            (tree[b"device".as_slice()].mode, tree[b"device".as_slice()].device),
            (0o020644, 0x501)
        );
        assert_eq!(tree[b"fifo".as_slice()].mode, 0o010644);
        assert_eq!(tree[b"d".as_slice()].mode, 0o041777);
    }
}

#[test]
fn merging_a_single_layer_changes_nothing_visible() {
    let layer = Tar::new()
        .directory("d/e", 0o700)
        .file("d/e/f", &[7; 5000])
        .link("d/link", EntryType::Link, "d/e/f")
        .finish();
    let without_numbers = |tree: BTreeMap<Vec<u8>, Node>| -> Vec<_> {
        let changed = tree.into_iter().map(|(path, node)| {
            // Directory data contains inode numbers, which differ.
            let data = if node.mode & S_IFMT == 0o040000 {
                Vec::new()
            } else {
                node.data.clone()
            };
            (path, Node { nid: 0, data, ..node })
        });
        changed.collect()
    };
    let below = lower(&[]);
    let single = read(&convert_on(&layer, Some(&below)).unwrap());
    assert_eq!(without_numbers(merged(&[layer])), without_numbers(single));
}

#[test]
fn limits_apply_to_all_layers_together() {
    let layers = [
        Tar::new().file("a", &[1; 3000]).finish(),
        Tar::new().file("b", &[2; 3000]).finish(),
    ];
    for (files, bytes, expected) in [(1, 10_000, "more than 1 files"), (10, 5000, "more than 5000 bytes")] {
        let limits = Limits { files, bytes };
        let image = tempfile::tempfile().unwrap();
        let error = merge(&lower(&layers), &image, scratch(), &limits, Compression::None).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
