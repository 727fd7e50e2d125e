//! From a layer's tar stream to a mountable image and back: the image must contain what the stream does.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};

use microkube_erofs::{Compression, Limits, LowerLayers, Volume, VolumeInode, write_layer};
use microkube_tar::{Kind, TarReader};

libfuzzer_sys::fuzz_target!(|data: &[u8]| tar_to_erofs(data));

const LIMITS: Limits = Limits {
    files: 5_000,
    bytes: 1 << 24,
};

// The file type bits of a mode.
const CHARACTER_DEVICE: u16 = 0o020_000;
const DIRECTORY: u16 = 0o040_000;
const FILE: u16 = 0o100_000;
const SYMLINK: u16 = 0o120_000;

thread_local! {
    static SCRATCH: RefCell<Vec<File>> = RefCell::new((0..3).map(|_| tempfile::tempfile().expect("a scratch file")).collect());
}

/// An empty file, reused for each input.
fn scratch(index: usize) -> File {
    SCRATCH.with_borrow(|files| {
        let mut file = files[index].try_clone().expect("a descriptor");
        file.set_len(0).expect("a file that can be truncated");
        file.rewind().expect("a file that can be rewound");
        file
    })
}

/// Converts a tar stream, reads the image back, and compares.
fn tar_to_erofs(data: &[u8]) {
    for compression in [Compression::None, Compression::Lz4] {
        let image = convert(data, compression, None);
        if let Some(image) = &image {
            compare(&read_back(image), data);
        }
        // Again above a lower layer, for which any stream will do: this one.
        if let Some(image) = image {
            let below = copy(image);
            let lower = LowerLayers::open(vec![below.try_clone().expect("a descriptor")]);
            let lower = lower.expect("a layer that was just written");
            if let Some(image) = convert(data, compression, Some(&lower)) {
                read_back(&image);
                let image = copy(image);
                if let Some(merged) = merge(&[&below, &image], compression) {
                    let hides = |(inode, _): &(VolumeInode, _)| inode.kind() == CHARACTER_DEVICE && inode.device == 0;
                    assert!(
                        !read_back(&merged).values().any(hides),
                        "a whiteout is left after merging"
                    );
                }
                damage(&image, data);
                let _ = merge(&[&below, &image], compression);
            }
        }
    }
}

/// The same image in a file that is not reused.
fn copy(mut image: File) -> File {
    image.rewind().expect("a file that can be rewound");
    let copy = tempfile::tempfile().expect("a file");
    std::io::copy(&mut image, &mut &copy).expect("a file that can be copied");
    copy
}

/// Merges images, lowest first.
fn merge(layers: &[&File], compression: Compression) -> Option<File> {
    let files = layers.iter().map(|file| file.try_clone().expect("a descriptor"));
    let layers = LowerLayers::open(files.collect()).ok()?;
    let image = scratch(0);
    microkube_erofs::merge(&layers, &image, [scratch(1), scratch(2)], &LIMITS, compression).ok()?;
    Some(image)
}

/// Reads an image with modified bytes, which must not panic.
fn damage(image: &File, data: &[u8]) {
    use std::os::unix::fs::FileExt;
    let length = image.metadata().expect("a file with a length").len();
    for change in data.rchunks_exact(4).take(8) {
        let offset = u64::from(u32::from_le_bytes([change[0], change[1], change[2], 0]));
        // After the superblock, which has a checksum.
        if let Some(offset) = offset.checked_rem(length - 4096) {
            image.write_all_at(&change[3..], 4096 + offset).expect("a byte");
        }
    }
    let volume = Volume::open(image.try_clone().expect("a descriptor")).expect("an image that opens");
    let mut pending: Vec<_> = volume.root().into_iter().collect();
    for _ in 0..500 {
        let Some(inode) = pending.pop() else { break };
        let _ = volume.xattrs(&inode);
        if inode.kind() == DIRECTORY {
            let mut children = Vec::new();
            let _ = volume.entries(&inode, |_, nid, _| {
                children.push(nid);
                children.len() < 500
            });
            pending.extend(children.into_iter().filter_map(|nid| volume.inode(nid).ok()));
        } else {
            let _ = volume.small_data(&inode, 1 << 20);
        }
    }
}

fn convert(mut data: &[u8], compression: Compression, lower: Option<&LowerLayers>) -> Option<File> {
    let mut image = scratch(0);
    let files = [scratch(1), scratch(2)];
    let summary = write_layer(&mut data, &image, files, &LIMITS, compression, lower).ok()?;
    assert_eq!(
        image.metadata().expect("a file with a length").len(),
        summary.length_bytes
    );
    image.rewind().expect("a file that can be rewound");
    Some(image)
}

/// Every path of an image with its inode and, for small files, its content.
fn read_back(image: &File) -> BTreeMap<Vec<u8>, (VolumeInode, Vec<u8>)> {
    let volume = Volume::open(image.try_clone().expect("a descriptor")).expect("an image that opens");
    volume.verify().expect("an intact image");
    let mut found = BTreeMap::new();
    let mut pending = vec![(Vec::new(), volume.root().expect("a root"))];
    while let Some((path, inode)) = pending.pop() {
        if inode.kind() == DIRECTORY {
            let mut last = Vec::new();
            let mut children = Vec::new();
            volume
                .entries(&inode, |name, nid, _| {
                    assert!(last.as_slice() < name, "names in order");
                    last = name.to_vec();
                    if name != b"." && name != b".." {
                        children.push((name.to_vec(), nid));
                    }
                    true
                })
                .expect("a directory");
            for (name, nid) in children {
                let mut path = path.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&name);
                pending.push((path, volume.inode(nid).expect("an inode")));
            }
        }
        let content = match inode.kind() {
            FILE | SYMLINK if inode.size <= 1 << 20 => volume.small_data(&inode, 1 << 20).expect("readable content"),
            _ => Vec::new(),
        };
        volume.xattrs(&inode).expect("readable attributes");
        assert!(found.insert(path, (inode, content)).is_none(), "duplicate path");
    }
    found
}

/// If no entry depends on another, the image must contain each one unchanged.
fn compare(found: &BTreeMap<Vec<u8>, (VolumeInode, Vec<u8>)>, data: &[u8]) {
    let mut expected = BTreeMap::new();
    let mut reader = TarReader::new(data);
    while let Ok(Some(entry)) = reader.next_entry() {
        let parts: Vec<_> = entry
            .path
            .split(|byte| *byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."))
            .collect();
        if entry.kind == Kind::HardLink || parts.iter().any(|part| part.starts_with(b".wh.")) {
            return;
        }
        let mut body = Vec::new();
        if reader.read_to_end(&mut body).is_err() || expected.insert(parts.join(&b'/'), (entry, body)).is_some() {
            return;
        }
    }
    let is_link = |path: &[u8]| {
        expected
            .get(path)
            .is_some_and(|(entry, _)| entry.kind != Kind::Directory)
    };
    for path in expected.keys() {
        let mut ends = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(end, _)| end);
        if ends.any(|end| is_link(&path[..end])) {
            return;
        }
    }
    for (path, (entry, body)) in &expected {
        let (inode, content) = found.get(path).expect("every entry is present");
        assert_eq!(inode.mode & 0o7777, entry.mode);
        assert_eq!((inode.uid, inode.gid), (entry.uid, entry.gid));
        assert_eq!(inode.mtime, (entry.mtime_seconds, entry.mtime_nanoseconds));
        match (entry.kind, &entry.sparse) {
            (Kind::File, None) if inode.size <= 1 << 20 => assert!(content == body),
            (Kind::File, Some(map)) => assert_eq!(inode.size, map.real_size),
            (Kind::Symlink, _) => assert!(*content == entry.link),
            _ => {}
        }
    }
}
