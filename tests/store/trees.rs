//! Generated trees: the files that the kernel shows in an image equal those that GNU tar unpacks, in every attribute.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::attributes;
use crate::mounted::{Fixture, Mount, extract, pack, succeed};

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    /// Sections of text, noise and zeros, each with its length in bytes.
    Mixed(Vec<(u8, usize)>),
    /// Size, and the position of the data.
    Sparse(u64, u64),
    Directory,
    Symlink(Vec<u8>),
    HardLink(prop::sample::Index),
    Fifo,
    Device(bool, u32, u32),
}

#[derive(Debug, Clone)]
struct Node {
    path: Vec<Vec<u8>>,
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    xattrs: Vec<(&'static str, Vec<u8>)>,
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => "[a-e]{1,2}".prop_map(String::into_bytes),
        1 => prop::collection::vec(prop::sample::select((1u8..=255).filter(|byte| *byte != b'/').collect::<Vec<_>>()), 1..12),
        1 => (200usize..=255).prop_map(|length| vec![b'n'; length]),
    ]
    .prop_filter("names with a special meaning", |name| {
        name != b"." && name != b".." && !name.starts_with(b".wh.")
    })
}

fn node() -> impl Strategy<Value = Node> {
    let kind = prop_oneof![
        5 => (prop::sample::select(vec![0usize, 1, 511, 512, 4031, 4032, 4033, 4096, 5000, 70_000]), any::<u8>())
            .prop_map(|(size, seed)| Kind::File((0..size).map(|index| (index as u8).wrapping_mul(seed)).collect())),
        2 => prop::collection::vec((0u8..3, prop_oneof![0usize..5000, 0usize..150_000]), 1..5).prop_map(Kind::Mixed),
        1 => (1u64 << 20..1 << 24, 0u64..1 << 20).prop_map(|(size, at)| Kind::Sparse(size, at)),
        4 => Just(Kind::Directory),
        2 => prop::collection::vec(1u8..=255, 1..300).prop_map(Kind::Symlink),
        2 => any::<prop::sample::Index>().prop_map(Kind::HardLink),
        1 => Just(Kind::Fifo),
        1 => (any::<bool>(), 1u32..4096, 0u32..1 << 20).prop_map(|(block, major, minor)| Kind::Device(block, major, minor)),
    ];
    let id = || prop_oneof![0u32..70_000, Just(4_000_000_000)];
    // ext4, where GNU tar unpacks, stores seconds in 34 bits.
    let mtime = (
        prop_oneof![Just(0i64), -2_000_000_000i64..10_000_000_000],
        prop_oneof![Just(0u32), 0u32..1_000_000_000],
    );
    let xattr = (
        prop::sample::select(vec!["user.a", "user.longer.name", "trusted.t", "security.s"]),
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let path = prop::collection::vec(name(), 1..6);
    (
        path,
        kind,
        0u32..0o10000,
        (id(), id()),
        mtime,
        prop::collection::vec(xattr, 0..3),
    )
        .prop_map(|(path, kind, mode, owner, mtime, xattrs)| Node {
            path,
            kind,
            mode,
            owner,
            mtime,
            xattrs,
        })
}

/// Parts that LZ4 shrinks, cannot shrink, and shrinks as far as possible.
fn mixed(parts: &[(u8, usize)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (kind, length) in parts {
        let start = content.len();
        match kind {
            0 => content.extend(
                (start..)
                    .flat_map(|line| format!("a line, {line}\n").into_bytes())
                    .take(*length),
            ),
            1 => content.extend((start..start + length).map(|byte| noise(byte as u64))),
            _ => content.resize(start + length, 0),
        }
    }
    content
}

/// A byte for each number, without a pattern (the last step of SplitMix64).
fn noise(number: u64) -> u8 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as u8
}

/// Creates the tree; nodes that clash with earlier ones are left out.
fn make(root: &Path, nodes: &[Node]) {
    fs::create_dir(root).unwrap();
    let mut directories = BTreeSet::from([PathBuf::new()]);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut made: Vec<(PathBuf, &Node)> = Vec::new();
    for node in nodes {
        let mut path = PathBuf::new();
        let (name, parents) = node.path.split_last().unwrap();
        for parent in parents {
            let below_directory = directories.contains(&path);
            path.push(OsStr::from_bytes(parent));
            if below_directory && fs::symlink_metadata(root.join(&path)).is_err() {
                fs::create_dir(root.join(&path)).unwrap();
                directories.insert(path.clone());
            }
        }
        if !directories.contains(&path) {
            continue;
        }
        path.push(OsStr::from_bytes(name));
        let full = root.join(&path);
        if fs::symlink_metadata(&full).is_ok() {
            continue;
        }
        let c_path = CString::new(full.as_os_str().as_bytes()).unwrap();
        match &node.kind {
            Kind::File(content) => fs::write(&full, content).unwrap(),
            Kind::Mixed(parts) => fs::write(&full, mixed(parts)).unwrap(),
            Kind::Sparse(size, at) => {
                let file = fs::File::create(&full).unwrap();
                file.set_len(*size).unwrap();
                file.write_all_at(b"somewhere", (*at).min(*size - 9)).unwrap();
            }
            Kind::Directory => {
                fs::create_dir(&full).unwrap();
                directories.insert(path.clone());
            }
            Kind::Symlink(target) => std::os::unix::fs::symlink(OsStr::from_bytes(target), &full).unwrap(),
            Kind::HardLink(pick) => {
                if !files.is_empty() {
                    fs::hard_link(root.join(pick.get(&files)), &full).unwrap();
                }
                continue;
            }
            Kind::Fifo => {
                // SAFETY: the path ends with NUL.
                assert_eq!(unsafe { libc::mkfifo(c_path.as_ptr(), 0o600) }, 0);
            }
            Kind::Device(block, major, minor) => {
                let kind = if *block { libc::S_IFBLK } else { libc::S_IFCHR };
                // SAFETY: as above.
                let made = unsafe { libc::mknod(c_path.as_ptr(), kind | 0o600, libc::makedev(*major, *minor)) };
                assert_eq!(made, 0);
            }
        }
        if !matches!(node.kind, Kind::Directory) {
            files.push(path.clone());
        }
        made.push((path, node));
    }
    // Deepest first, because creating an entry changes its directory's time.
    made.sort_by_key(|(path, _)| std::cmp::Reverse(path.components().count()));
    for (path, node) in made {
        set_attributes(&root.join(path), node);
    }
}

fn set_attributes(full: &Path, node: &Node) {
    let is_symlink = matches!(node.kind, Kind::Symlink(_));
    std::os::unix::fs::lchown(full, Some(node.owner.0), Some(node.owner.1)).unwrap();
    let c_path = CString::new(full.as_os_str().as_bytes()).unwrap();
    if !is_symlink {
        // SAFETY: the path ends with NUL.
        assert_eq!(unsafe { libc::chmod(c_path.as_ptr(), node.mode) }, 0);
    }
    for (name, value) in &node.xattrs {
        let user_ok = matches!(
            node.kind,
            Kind::File(_) | Kind::Mixed(_) | Kind::Sparse(..) | Kind::Directory
        );
        if is_symlink || name.starts_with("user.") && !user_ok {
            continue;
        }
        let name = CString::new(*name).unwrap();
        // SAFETY: path and name end with NUL, and the value has the given length.
        let result = unsafe { libc::lsetxattr(c_path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
        assert_eq!(result, 0, "{name:?}: {}", std::io::Error::last_os_error());
    }
    let time = libc::timespec {
        tv_sec: node.mtime.0,
        tv_nsec: i64::from(node.mtime.1),
    };
    // SAFETY: as above; the array has two elements.
    let result = unsafe {
        libc::utimensat(
            libc::AT_FDCWD,
            c_path.as_ptr(),
            [time, time].as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
        )
    };
    assert_eq!(result, 0);
}

#[test]
fn a_mounted_image_equals_what_gnu_tar_unpacks() {
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    // The same trees in every run, so that failures can be repeated.
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let formats = [
        "--format=posix",
        "--format=posix --sparse",
        "--format=gnu",
        "--format=gnu --sparse",
    ];
    let strategy = (
        prop::collection::vec(node(), 1..40),
        prop::sample::select(formats.to_vec()),
    );
    let result = runner.run(&strategy, |(nodes, format)| {
        compare(&nodes, format);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn compare(nodes: &[Node], format: &str) {
    let fixture = Fixture::new();
    let (tree, archive) = (fixture.path("tree"), fixture.path("layer.tar"));
    make(&tree, nodes);
    let mut tar = Command::new("tar");
    tar.args(["--create", "--numeric-owner"]).args(format.split(' '));
    if format.contains("posix") {
        tar.args(["--xattrs", "--xattrs-include=*"]);
    }
    succeed(tar.arg("--file").arg(&archive).arg("--directory").arg(&tree).arg("."));
    let unpacked = fixture.path("unpacked");
    extract(&archive, &unpacked);
    let expected = attributes::of_tree(&unpacked);
    for store in fixture.stores() {
        let image = fixture.load_into(store, "test:v1", &[&archive]);
        let mount = Mount::layer(&image.layers[0].path, fixture.path("mounted"));
        attributes::assert_equal(&expected, &attributes::of_tree(&mount.0));
    }
}

#[test]
fn a_compressed_file_is_read_correctly_in_any_order() {
    let fixture = Fixture::new();
    let tree = fixture.path("tree");
    fs::create_dir(&tree).unwrap();
    let parts: Vec<_> = (0..60)
        .map(|part| ((part % 3) as u8, 1 + (part + 1) * 245_489 % 700_000))
        .collect();
    let content = mixed(&parts);
    fs::write(tree.join("mixed"), &content).unwrap();
    let archive = fixture.path("layer.tar");
    pack(&tree, &archive);
    let plain = fixture.load("test:v1", &[&archive]);
    let image = fixture.load_into(&fixture.compressing, "test:v1", &[&archive]);
    assert!(
        image.size_bytes * 3 < plain.size_bytes * 2,
        "{} of {}",
        image.size_bytes,
        plain.size_bytes
    );
    let mount = Mount::layer(&image.layers[0].path, fixture.path("mounted"));
    let file = fs::File::open(mount.0.join("mixed")).unwrap();
    for step in 0..4000u64 {
        let offset = step * 7_368_787 % content.len() as u64;
        let mut buffer = vec![0; 1 + (step * 31 % 20_000) as usize];
        let count = file.read_at(&mut buffer, offset).unwrap();
        let expected = &content[offset as usize..];
        assert_eq!(count, buffer.len().min(expected.len()));
        assert!(buffer[..count] == expected[..count], "{offset}");
    }
    drop(file);
}

#[test]
fn deep_and_wide_directories_equal_what_gnu_tar_unpacks() {
    let fixture = Fixture::new();
    let tree = fixture.path("tree");
    let deep: PathBuf = (0..60)
        .map(|level| format!("level-{level}-{}", "x".repeat(50)))
        .collect();
    fs::create_dir_all(tree.join(&deep)).unwrap();
    fs::write(tree.join(&deep).join("bottom"), "deep").unwrap();
    fs::create_dir(tree.join("wide")).unwrap();
    for number in 0..20_000 {
        fs::write(tree.join(format!("wide/{number}-{}", "y".repeat(number % 100))), "").unwrap();
    }
    let archive = fixture.path("layer.tar");
    pack(&tree, &archive);
    let unpacked = fixture.path("unpacked");
    extract(&archive, &unpacked);
    let image = fixture.load("test:v1", &[&archive]);
    let mount = Mount::layer(&image.layers[0].path, fixture.path("mounted"));
    attributes::assert_equal(&attributes::of_tree(&unpacked), &attributes::of_tree(&mount.0));
    assert_eq!(
        fs::read(mount.0.join("wide/19999-".to_owned() + &"y".repeat(99))).unwrap(),
        b""
    );
}
