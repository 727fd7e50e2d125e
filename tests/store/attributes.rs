//! All visible properties of the files in a tree, to compare two trees.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The properties of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: (i64, i64),
    /// `None` for directories, whose size differs between file systems.
    size: Option<u64>,
    links: u64,
    device: u64,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    target: Option<PathBuf>,
    digest: Option<u64>,
    /// The first path of the same inode.
    same_as: PathBuf,
}

/// Every path below `root` with its attributes; the root itself has the empty path.
pub fn of_tree(root: &Path) -> BTreeMap<PathBuf, Attributes> {
    of_paths(root, false)
}

/// The same for an overlayfs, which lists the whiteouts of a directory that only one layer has, although they cannot be
/// opened.
pub fn of_overlay(root: &Path) -> BTreeMap<PathBuf, Attributes> {
    of_paths(root, true)
}

fn of_paths(root: &Path, lists_whiteouts: bool) -> BTreeMap<PathBuf, Attributes> {
    let mut paths = Vec::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let metadata = match fs::symlink_metadata(&full) {
            Err(error) if lists_whiteouts && error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata.unwrap_or_else(|error| panic!("{}: {error}", full.display())),
        };
        if metadata.is_dir() {
            for entry in fs::read_dir(&full).unwrap() {
                pending.push(path.join(entry.unwrap().file_name()));
            }
        }
        paths.push(path);
    }
    paths.sort();
    let mut inodes = BTreeMap::new();
    let mut tree = BTreeMap::new();
    for path in paths {
        let full = root.join(&path);
        let metadata = fs::symlink_metadata(&full).unwrap();
        let kind = metadata.file_type();
        let same_as: &mut PathBuf = inodes
            .entry((metadata.dev(), metadata.ino()))
            .or_insert_with(|| path.clone());
        let attributes = Attributes {
            mode: metadata.mode(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            size: (!kind.is_dir()).then(|| metadata.size()),
            links: metadata.nlink(),
            device: if kind.is_char_device() || kind.is_block_device() {
                metadata.rdev()
            } else {
                0
            },
            xattrs: xattrs(&full),
            target: kind.is_symlink().then(|| fs::read_link(&full).unwrap()),
            digest: kind.is_file().then(|| digest(&full)),
            same_as: same_as.clone(),
        };
        tree.insert(path, attributes);
    }
    tree
}

/// Sets link counts to the number of visible names: overlayfs also counts hidden names, and counts directories of
/// several layers differently.
pub fn count_links(tree: &mut BTreeMap<PathBuf, Attributes>) {
    let mut counts: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for attributes in tree.values() {
        *counts.entry(attributes.same_as.clone()).or_default() += 1;
    }
    for attributes in tree.values_mut() {
        attributes.links = match attributes.size {
            None => 0,
            Some(_) => counts.get(&attributes.same_as).copied().unwrap_or(0),
        };
    }
}

/// FNV-1a of the content, read in pieces.
fn digest(path: &Path) -> u64 {
    let file = fs::File::open(path).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (mut hash, mut offset) = (0xcbf2_9ce4_8422_2325_u64, 0);
    loop {
        let count = file.read_at(&mut buffer, offset).unwrap();
        if count == 0 {
            return hash;
        }
        offset += count as u64;
        for byte in &buffer[..count] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut names = vec![0u8; 64 << 10];
    // SAFETY: the path ends with NUL, and the buffer has the given length.
    let count = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    if count < 0 {
        // Symbolic links may have no attributes.
        return BTreeMap::new();
    }
    let mut xattrs = BTreeMap::new();
    for name in names[..count as usize]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let c_name = CString::new(name).unwrap();
        let mut value = vec![0u8; 64 << 10];
        // SAFETY: as above.
        let length = unsafe { libc::lgetxattr(path.as_ptr(), c_name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        assert!(length >= 0, "{name:?}");
        value.truncate(length as usize);
        xattrs.insert(name.to_vec(), value);
    }
    xattrs
}

/// Asserts that two trees are equal, and reports their first difference.
#[track_caller]
pub fn assert_equal(expected: &BTreeMap<PathBuf, Attributes>, found: &BTreeMap<PathBuf, Attributes>) {
    for (path, attributes) in expected {
        let other = found
            .get(path)
            .unwrap_or_else(|| panic!("{} is missing", path.display()));
        assert_eq!(attributes, other, "{}", path.display());
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{} should not exist", path.display());
    }
}
