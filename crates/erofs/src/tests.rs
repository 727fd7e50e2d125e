//! Tests the writer with the small reader in `reader.rs`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};

use microkube_tar::TarError;
use proptest::prelude::*;
use tar::{EntryType, Header};

use super::needs::Needs;
use super::reader::{Node, read};
use super::*;

mod compressed;
mod merged;
mod stacked;

const S_IFMT: u16 = 0o170000;

fn scratch() -> [File; 2] {
    [(); 2].map(|()| tempfile::tempfile().unwrap())
}

fn convert(tar: &[u8]) -> Result<Vec<u8>, ErofsError> {
    convert_on(tar, None)
}

/// The layers below another one, lowest first.
fn lower(tars: &[Vec<u8>]) -> LowerLayers {
    let mut files = Vec::new();
    for tar in tars {
        let below = LowerLayers::open(files.iter().map(|file: &File| file.try_clone().unwrap()).collect()).unwrap();
        let image = tempfile::tempfile().unwrap();
        write_layer(
            &mut Cursor::new(tar),
            &image,
            scratch(),
            &Limits::default(),
            Compression::None,
            Some(&below),
        )
        .unwrap();
        files.push(image);
    }
    LowerLayers::open(files).unwrap()
}

/// Writes the layer's image to a file.
fn write(tar: &[u8]) -> File {
    let image = tempfile::tempfile().unwrap();
    write_layer(
        &mut Cursor::new(tar),
        &image,
        scratch(),
        &Limits::default(),
        Compression::None,
        None,
    )
    .unwrap();
    image
}

fn convert_on(tar: &[u8], lower: Option<&LowerLayers>) -> Result<Vec<u8>, ErofsError> {
    convert_as(tar, Compression::None, lower)
}

fn convert_as(tar: &[u8], compression: Compression, lower: Option<&LowerLayers>) -> Result<Vec<u8>, ErofsError> {
    let image = tempfile::tempfile().unwrap();
    let limits = Limits::default();
    let summary = write_layer(&mut Cursor::new(tar), &image, scratch(), &limits, compression, lower)?;
    let volume = Volume::open(image.try_clone().unwrap()).unwrap();
    volume.verify().unwrap();
    assert_eq!(
        (volume.needs(), volume.length_bytes()),
        (summary.needs, summary.length_bytes)
    );
    let mut bytes = Vec::new();
    io::Seek::rewind(&mut &image).unwrap();
    (&image).read_to_end(&mut bytes).unwrap();
    assert_eq!(summary.length_bytes, bytes.len() as u64);
    Ok(bytes)
}

/// The contents of the layer's image. The compressed image must have the same contents.
fn tree(tar: &[u8]) -> BTreeMap<Vec<u8>, Node> {
    let tree = read(&convert(tar).unwrap());
    let compressed = read(&convert_as(tar, Compression::Lz4, None).unwrap());
    assert!(tree.keys().eq(compressed.keys()));
    for (path, node) in &tree {
        let mut other = Node {
            nid: node.nid,
            ..compressed[path].clone()
        };
        if node.mode & S_IFMT == 0o040000 {
            // Directory data contains inode numbers, which differ.
            other.data.clone_from(&node.data);
        }
        assert!(*node == other, "{}", path.escape_ascii());
    }
    tree
}

/// Builds tar streams.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, path: &str, kind: EntryType, data: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        // Bypasses the builder's checks: other programs' archives can contain anything.
        let name = &mut header.as_old_mut().name;
        assert!(path.len() <= name.len(), "a long path needs a PAX record");
        name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_size(data.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.add(path, EntryType::Regular, data, |_| {})
    }

    fn directory(self, path: &str, mode: u32) -> Self {
        self.add(path, EntryType::Directory, b"", |header| header.set_mode(mode))
    }

    fn link(self, path: &str, kind: EntryType, target: &str) -> Self {
        self.add(path, kind, b"", |header| header.set_link_name_literal(target).unwrap())
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.0.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[test]
fn an_empty_layer_is_an_empty_root() {
    let tree = tree(&Tar::new().finish());
    assert_eq!(tree.len(), 1);
    assert_eq!(tree[b"".as_slice()].mode, 0o040755);
}

#[test]
fn the_image_is_padded_after_the_last_inode_for_any_number_of_inodes() {
    let mut is_end_reached = false;
    for (count, width) in (0..100).flat_map(|count| (3..8).map(move |width| (count, width))) {
        let files = (0..count).fold(Tar::new().directory("./", 0o755), |tar, number| {
            tar.file(&format!("{number:0width$}"), b"")
        });
        let image = convert(&files.finish()).unwrap();
        read(&image);
        is_end_reached |= image.chunks(4096).next_back().unwrap().iter().all(|byte| *byte == 0);
    }
    assert!(is_end_reached, "none of these filled its last block");
}

#[test]
fn files_of_every_size_keep_their_content() {
    let mut tar = Tar::new();
    let sizes = [
        0, 1, 31, 4000, 4020, 4032, 4033, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 300_000,
    ];
    let content = |size: usize| (0..size).map(|i| (i * 7 + size) as u8).collect::<Vec<_>>();
    for size in sizes {
        tar = tar.file(&format!("dir/{size}"), &content(size));
    }
    let tree = tree(&tar.finish());
    for size in sizes {
        let node = &tree[format!("dir/{size}").as_bytes()];
        assert!(node.data == content(size), "{size}");
        assert_eq!((node.mode, node.links, node.mtime), (0o100644, 1, (1000, 0)));
    }
}

#[test]
fn a_directory_of_many_blocks_lists_everything_in_order() {
    let mut tar = Tar::new();
    for number in 0..2000 {
        tar = tar.file(
            &format!("./wide/-{:03}-{}", number * 7919 % 2000, "x".repeat(number % 60)),
            b"",
        );
    }
    let tree = tree(&tar.finish());
    assert_eq!(tree.len(), 2002);
    assert!(tree[b"wide".as_slice()].size > 5 * 4096);
}

#[test]
fn attributes_survive_in_full() {
    let tar = Tar::new()
        .pax(&[
            ("path", b"bytes\xff\xfe"),
            ("mtime", b"-1.5"),
            ("uid", b"4000000000"),
            ("gid", b"70000"),
            ("SCHILY.xattr.security.capability", b"\x01\x00=\n"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.nonsense.x", b"dropped"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/dropped"),
        ])
        .add("short", EntryType::Regular, b"data", |header| header.set_mode(0o4755))
        .add("null", EntryType::Char, b"", |header| {
            header.set_device_major(259).unwrap();
            header.set_device_minor(0x12345).unwrap();
        })
        .add("disk", EntryType::Block, b"", |_| {})
        .add("pipe", EntryType::Fifo, b"", |_| {})
        .link("symlink", EntryType::Symlink, "../../etc/passwd")
        .link("hard", EntryType::Link, "./null")
        .finish();
    let tree = tree(&tar);
    let node = &tree[b"bytes\xff\xfe".as_slice()];
    assert_eq!(
        (node.mode, node.uid, node.gid, node.mtime),
        (0o104755, 4_000_000_000, 70_000, (-2, 500_000_000))
    );
    let xattrs: Vec<_> = node
        .xattrs
        .iter()
        .map(|((index, name), value)| (*index, &name[..], &value[..]))
        .collect();
    assert_eq!(
        xattrs,
        [
            (1, b"empty".as_slice(), b"".as_slice()),
            (6, b"capability", b"\x01\x00=\n")
        ]
    );
    assert_eq!(tree[b"null".as_slice()].device, 0x1231_0345);
    assert_eq!(tree[b"null".as_slice()].links, 2);
    assert_eq!(tree[b"null".as_slice()].nid, tree[b"hard".as_slice()].nid);
    assert_eq!(tree[b"disk".as_slice()].mode & S_IFMT, 0o060000);
    assert_eq!(tree[b"pipe".as_slice()].mode & S_IFMT, 0o010000);
    assert_eq!(tree[b"symlink".as_slice()].data, b"../../etc/passwd");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let tar = Tar::new()
        .directory("d", 0o700)
        .file("d/kept", b"1")
        .directory("d/", 0o711)
        .file("was-dir/x", b"1")
        .file("was-dir", b"2")
        .file("twice", b"1")
        .link("other", EntryType::Link, "twice")
        .file("twice", b"22")
        .finish();
    let tree = tree(&tar);
    assert_eq!(tree[b"d".as_slice()].mode, 0o040711);
    assert_eq!(tree[b"d/kept".as_slice()].data, b"1");
    assert_eq!(tree[b"was-dir".as_slice()].data, b"2");
    assert!(!tree.contains_key(b"was-dir/x".as_slice()));
    assert_eq!(
        (&tree[b"twice".as_slice()].data[..], tree[b"twice".as_slice()].links),
        (b"22".as_slice(), 1)
    );
    assert_eq!(
        (&tree[b"other".as_slice()].data[..], tree[b"other".as_slice()].links),
        (b"1".as_slice(), 1)
    );
}

#[test]
fn whiteouts_are_converted_for_overlayfs() {
    let tar = Tar::new()
        .file("a/.wh.gone", b"")
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"1")
        .file(".wh..wh.plnk/x", b"")
        .file("same-layer", b"kept")
        .file(".wh.same-layer", b"")
        .file("replaced/x", b"")
        .file(".wh.replaced", b"")
        .file(".wh.later", b"")
        .directory("later", 0o755)
        .finish();
    let tree = tree(&tar);
    let opaque = |path: &[u8]| {
        tree[path]
            .xattrs
            .get(&(4, b"overlay.opaque".to_vec()))
            .is_some_and(|value| value == b"y")
    };
    assert_eq!(
        (
            tree[b"a/gone".as_slice()].mode & S_IFMT,
            tree[b"a/gone".as_slice()].device
        ),
        (0o020000, 0)
    );
    assert!(opaque(b"b") && opaque(b"replaced") && opaque(b"later") && !opaque(b"a") && !opaque(b""));
    assert_eq!(tree[b"same-layer".as_slice()].data, b"kept");
    assert!(tree.keys().all(|path| {
        !path
            .windows(4)
            .any(|part| part == b".wh." && !path.starts_with(b".wh..wh.plnk"))
    }));
}

#[test]
fn paths_stay_within_the_layer() {
    for path in ["../x", "a/../../x", "a/..", ".."] {
        let error = convert(&Tar::new().file(path, b"").finish()).unwrap_err();
        assert!(matches!(error, ErofsError::Entry { .. }), "{path}: {error}");
    }
    let escape = Tar::new()
        .link("up", EntryType::Symlink, "../../../etc")
        .file("up/passwd", b"inside")
        .file("/absolute", b"inside")
        .finish();
    let tree = tree(&escape);
    assert_eq!(tree[b"etc/passwd".as_slice()].data, b"inside");
    assert_eq!(tree[b"absolute".as_slice()].data, b"inside");
    let nothing_below = lower(&[]);
    for target in ["../outside", "missing", "directory", "/", "directory/.wh.x/y"] {
        let tar = Tar::new()
            .directory("directory", 0o755)
            .link("x", EntryType::Link, target)
            .finish();
        let error = convert_on(&tar, Some(&nothing_below)).unwrap_err();
        assert!(matches!(error, ErofsError::Entry { .. }), "{target}: {error}");
    }
    let looping = Tar::new()
        .link("a", EntryType::Symlink, "b")
        .link("b", EntryType::Symlink, "a")
        .file("a/x", b"");
    assert!(
        convert(&looping.finish())
            .unwrap_err()
            .to_string()
            .contains("symbolic links")
    );
}

#[test]
fn sparse_files_read_in_full_and_take_no_space() {
    // Body: the map of format 1.0 in one record, then the two parts.
    let mut body = b"2\n0\n5\n40000000\n3\n".to_vec();
    body.resize(512, 0);
    body.extend(b"startmid");
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"50000001"),
    ];
    let tar = Tar::new().pax(&sparse).file("GNUSparseFile.0/sparse", &body).finish();
    let image = write(&tar);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&image.metadata().unwrap());
    assert!(blocks * 512 < 1 << 20, "{blocks} sectors used");
    let tree = tree(&tar);
    let data = &tree[b"sparse".as_slice()].data;
    assert_eq!(data.len(), 50_000_001);
    assert_eq!(
        (&data[..5], &data[40_000_000..40_000_003]),
        (b"start".as_slice(), b"mid".as_slice())
    );
    assert!(
        data[5..40_000_000]
            .iter()
            .chain(&data[40_000_003..])
            .all(|byte| *byte == 0)
    );
}

#[test]
fn a_symlink_that_does_not_fit_its_inode_is_stored_apart() {
    let long = "x".repeat(4095);
    let tar = Tar::new()
        .pax(&[("linkpath", long.as_bytes()), ("SCHILY.xattr.trusted.x", &[1; 200])])
        .link("link", EntryType::Symlink, "short")
        .finish();
    assert_eq!(tree(&tar)[b"link".as_slice()].data, long.as_bytes());
}

#[test]
fn a_stream_cut_within_an_entry_is_an_error() {
    let tar = Tar::new().file("a", &[1; 5000]).file("b", &[2; 700]).finish();
    for length in [100, 512, 513, 3000, 5500, 6000, 6144 + 512, 6144 + 600] {
        let error = convert(&tar[..length]).unwrap_err();
        assert!(
            matches!(error, ErofsError::Tar(TarError::Truncated { .. })),
            "{length}: {error}"
        );
    }
}

#[test]
fn layers_beyond_the_limits_are_refused() {
    let convert = |tar: &[u8], limits| {
        let image = tempfile::tempfile().unwrap();
        write_layer(
            &mut Cursor::new(tar),
            &image,
            scratch(),
            &limits,
            Compression::None,
            None,
        )
    };
    let limits = Limits { files: 3, bytes: 1000 };
    let tar = Tar::new().file("a", b"1").file("b", b"1").file("c", b"1");
    assert!(convert(&tar.finish(), limits).is_ok());
    let tar = Tar::new()
        .file("a", b"1")
        .file("a", b"2")
        .file("a", b"3")
        .file("a", b"4");
    let error = convert(&tar.finish(), limits).unwrap_err().to_string();
    assert!(error.contains("more than 3 files"), "{error}");
    let error = convert(&Tar::new().file("a", &[0; 600]).file("b", &[0; 600]).finish(), limits).unwrap_err();
    let error = error.to_string();
    assert!(error.contains("more than 1000 bytes"), "{error}");
    // A file that is too large is refused at its header, before its content is read.
    let mut cut = Tar::new().file("huge", &[0; 2000]).finish();
    cut.truncate(600);
    assert_eq!(convert(&cut, limits).unwrap_err().to_string(), error);
    // Holes count: reading the file reads them too.
    let sparse: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"9000000000000000000"),
    ];
    let mut body = b"0\n".to_vec();
    body.resize(512, 0);
    let tar = Tar::new().pax(&sparse).file("x", &body).finish();
    let error = convert(&tar, Limits::default()).unwrap_err();
    assert!(matches!(error, ErofsError::TooManyBytes { .. }), "{error}");
}

#[test]
fn a_damaged_image_is_recognised() {
    use std::os::unix::fs::FileExt;
    let tar = Tar::new()
        .file("a", &[1; 10_000])
        .file("zeros", &[0; 100_000])
        .file("b", b"tail");
    let image = write(&tar.finish());
    let open = || Volume::open(image.try_clone().unwrap());
    let length = open().unwrap().length_bytes();
    for offset in (4096..length).step_by(997) {
        let mut byte = [0];
        image.read_exact_at(&mut byte, offset).unwrap();
        image.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
        assert!(open().unwrap().verify().is_err(), "{offset}");
        image.write_all_at(&byte, offset).unwrap();
    }
    open().unwrap().verify().unwrap();
    image.write_all_at(&[7], 1024 + 50).unwrap();
    assert!(matches!(open(), Err(VolumeError::Damaged(_))));
    image.set_len(length - 4096).unwrap();
    assert!(open().is_err());
}

#[derive(Debug, Clone)]
enum Item {
    File(Vec<u8>),
    Directory,
    Symlink(String),
    HardLink(usize),
}

fn items() -> impl Strategy<Value = Vec<(String, Item, u32, u32)>> {
    let name = prop::collection::vec("[a-c!.é-]{1,3}", 1..4).prop_map(|parts| parts.join("/"));
    let item = prop_oneof![
        4 => (0usize..9000, any::<u8>()).prop_map(|(size, byte)| Item::File(vec![byte; size])),
        2 => Just(Item::Directory),
        1 => "[a-z/]{1,80}".prop_map(Item::Symlink),
        1 => any::<usize>().prop_map(Item::HardLink),
    ];
    prop::collection::vec((name, item, 0u32..100_000, 0u32..3), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_reads_back_as_it_was_written(items in items()) {
        // The expected tree: the paths that do not clash with earlier ones.
        let mut expected = BTreeMap::<String, (Item, u32, u32)>::new();
        let mut tar = Tar::new();
        for (path, item, uid, time) in items {
            let taken = |other: &String| {
                let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
                *other == path || below(other, &path) || below(&path, other)
            };
            let parts: Vec<_> = path.split('/').collect();
            if parts.iter().any(|part| *part == "." || *part == "..") || expected.keys().any(taken) {
                continue;
            }
            let set = |header: &mut Header| {
                header.set_uid(u64::from(uid));
                header.set_mtime(u64::from(time));
            };
            match &item {
                Item::File(data) => tar = tar.add(&path, EntryType::Regular, data, set),
                Item::Directory => tar = tar.add(&path, EntryType::Directory, b"", set),
                Item::Symlink(target) => tar = tar.link(&path, EntryType::Symlink, target),
                Item::HardLink(pick) => {
                    let files: Vec<_> = expected.iter().filter(|(_, (item, ..))| matches!(item, Item::File(_))).collect();
                    let Some((target, file)) = files.get(pick % files.len().max(1)) else { continue };
                    tar = tar.link(&path, EntryType::Link, target);
                    let file = (*file).clone();
                    expected.insert(path, file);
                    continue;
                }
            }
            expected.insert(path, (item, uid, time));
        }
        let bytes = tar.finish();
        let image = convert(&bytes).unwrap();
        prop_assert!(image == convert(&bytes).unwrap(), "the same layer gives the same bytes");
        let tree = read(&image);
        for (path, (item, uid, time)) in &expected {
            let node = &tree[path.as_bytes()];
            match item {
                Item::File(data) => {
                    prop_assert!(node.data == *data && node.mode & S_IFMT == 0o100000);
                    prop_assert_eq!((node.uid, node.mtime), (*uid, (i64::from(*time), 0)));
                }
                Item::Directory => prop_assert_eq!((node.mode & S_IFMT, node.uid), (0o040000, *uid)),
                Item::Symlink(target) => prop_assert_eq!(&node.data, target.as_bytes()),
                Item::HardLink(_) => unreachable!("stored as the file it links to"),
            }
        }
        let paths = expected.keys().map(String::as_str);
        let parents = paths.flat_map(|path| path.match_indices('/').map(move |(end, _)| &path[..end]));
        let all: std::collections::BTreeSet<_> = expected.keys().map(String::as_str).chain(parents).chain([""]).collect();
        prop_assert_eq!(all.len(), tree.len());
    }

    #[test]
    fn a_damaged_stream_never_panics(flips in prop::collection::vec((0usize..6000, any::<u8>()), 1..20)) {
        let mut tar = Tar::new()
            .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b")])
            .file("a/b", &[1; 600])
            .link("l", EntryType::Symlink, "a")
            .link("h", EntryType::Link, "a/b")
            .finish();
        for (position, byte) in flips {
            if let Some(place) = tar.get_mut(position) {
                *place = byte;
            }
        }
        // A checksum protects each header: correct it to let the damage reach the parser.
        for record in tar.chunks_exact_mut(512) {
            if record[257..262] == *b"ustar" {
                record[148..156].fill(b' ');
                let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
                record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
        }
        if let Ok(image) = convert(&tar) {
            read(&image);
        }
    }
}
