//! Places inodes and directories once the tree is complete, and writes them behind the content.
//!
//! The image ends up as: superblock, content of files, directory blocks, inodes. Inodes that carry data behind them are put
//! where they fit best, so that small files fill the space that larger ones leave in a block.

use std::collections::{BTreeMap, BTreeSet};

use super::data::{BlockWriter, Spill};
use super::format::{
    BLOCK, COMPACT_INODE, DIRENT, DataLayout, EXTENDED_INODE, RawInode, SLOT, SuperBlock, XATTR_HEADER, device_number,
};
use super::tree::{Attributes, Content, Inode, InodeId, ROOT, Tree};
use super::{ErofsError, OutputError, Summary};

/// `trusted.overlay.opaque=y`: name length, index of `trusted.`, value length, name, value, padded to 4 bytes.
const OPAQUE_XATTR: &[u8; 20] = b"\x0e\x04\x01\x00overlay.opaquey\x00";
const S_IFIFO: u16 = 0o010000;
const S_IFCHR: u16 = 0o020000;
const S_IFDIR: u16 = 0o040000;
const S_IFBLK: u16 = 0o060000;
const S_IFREG: u16 = 0o100000;
const S_IFLNK: u16 = 0o120000;

/// Where an inode goes and in which form.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    links: u32,
    extended: bool,
    inline_bytes: u16,
    xattr_bytes: u32,
    size: u64,
    first_block: u32,
    /// In slots from the metadata's start; an inode's number in EROFS.
    nid: u64,
}

/// Writes everything but the content: `blocks` stands behind it, `spill` has the partial blocks.
pub(super) fn write(
    tree: &Tree,
    mut blocks: BlockWriter<'_>,
    mut spill: Spill,
) -> Result<(Summary, SuperBlock), ErofsError> {
    let live = reachable(tree);
    let (build_seconds, build_nanoseconds) = most_common_time(tree, &live);
    let mut places: Places = live
        .into_iter()
        .map(|links| Place {
            links,
            ..Place::default()
        })
        .collect();
    let mut directory_block = u64::from(blocks.next_block()?);
    let mut space = Space::default();
    for (id, place) in (0..).zip(&mut places).filter(|(_, place)| place.links > 0) {
        let inode = tree.inode(id).ok_or(ErofsError::TooManyEntries)?;
        prepare(
            tree,
            inode,
            id,
            place,
            (build_seconds, build_nanoseconds),
            &mut directory_block,
        )?;
        let head = inode_bytes(place.extended) + place.xattr_bytes as usize;
        place.nid = space.take(head + usize::from(place.inline_bytes))?;
    }
    let meta_block = u32::try_from(directory_block).map_err(|_| ErofsError::TooLarge)?;
    let inodes = places.iter().filter(|place| place.links > 0).count() as u64;
    let super_block = SuperBlock {
        root_nid: u16::try_from(places.get(ROOT as usize).map_or(0, |place| place.nid))
            .map_err(|_| ErofsError::TooLarge)?,
        inodes,
        build_seconds,
        build_nanoseconds,
        blocks: u32::try_from(directory_block + space.blocks()).map_err(|_| ErofsError::TooLarge)?,
        meta_block,
    };
    for (id, place) in numbered(&places).filter(|(_, place)| place.size > u64::from(place.inline_bytes)) {
        match tree.inode(id).map(|inode| &inode.content) {
            Some(Content::Directory(_)) => {
                let bytes = encode_directory(&listing(tree, id, &places).unwrap_or_default());
                blocks.write(
                    bytes
                        .get(..bytes.len() - usize::from(place.inline_bytes))
                        .unwrap_or_default(),
                )?;
            }
            // Beside extended attributes that leave no room for it in the inode's block.
            Some(Content::Symlink(target)) => blocks.write(target)?,
            _ => {}
        }
        blocks.pad()?;
    }
    write_inodes(tree, &places, &mut blocks, &mut spill)?;
    blocks.pad()?;
    blocks.flush()?;
    Ok((
        Summary {
            length_bytes: u64::from(super_block.blocks) * BLOCK as u64,
            inodes: places.len() as u64,
        },
        super_block,
    ))
}

/// By inode; those that nothing links to are not written.
type Places = Vec<Place>;

fn numbered(places: &[Place]) -> impl Iterator<Item = (InodeId, &Place)> {
    (0..).zip(places).filter(|(_, place)| place.links > 0)
}

/// The link counts of the inodes that the tree still reaches; zero for those that were replaced.
fn reachable(tree: &Tree) -> Vec<u32> {
    let mut links = vec![0u32; tree.len()];
    let mut add = |id: InodeId, count| {
        if let Some(links) = links.get_mut(id as usize) {
            *links += count;
        }
    };
    add(ROOT, 2);
    let mut pending = vec![ROOT];
    while let Some(id) = pending.pop() {
        let Some(directory) = tree.directory(id) else { continue };
        for child in directory.entries.values() {
            if tree.directory(*child).is_some() {
                add(*child, 2);
                add(id, 1);
                pending.push(*child);
            } else {
                add(*child, 1);
            }
        }
    }
    links
}

/// The time most inodes have: short inodes carry no time of their own but the image's.
fn most_common_time(tree: &Tree, live: &[u32]) -> (i64, u32) {
    let mut counts = BTreeMap::<(i64, u32), u32>::new();
    for inode in (0..)
        .zip(live)
        .filter(|(_, links)| **links > 0)
        .filter_map(|(id, _)| tree.inode(id))
    {
        if inode.attributes.mtime_seconds >= 0 {
            *counts.entry(time(&inode.attributes)).or_default() += 1;
        }
    }
    // Of equally common ones the earliest, so that the same layer gives the same image.
    counts
        .into_iter()
        .rev()
        .max_by_key(|(_, count)| *count)
        .map_or((0, 0), |(time, _)| time)
}

fn time(attributes: &Attributes) -> (i64, u32) {
    (attributes.mtime_seconds, attributes.mtime_nanoseconds)
}

/// Decides everything about an inode but its place, and reserves directory blocks.
fn prepare(
    tree: &Tree,
    inode: &Inode,
    id: InodeId,
    place: &mut Place,
    build_time: (i64, u32),
    directory_block: &mut u64,
) -> Result<(), ErofsError> {
    let opaque = matches!(&inode.content, Content::Directory(directory) if directory.opaque);
    let entries = inode.attributes.xattrs.len() + if opaque { OPAQUE_XATTR.len() } else { 0 };
    place.xattr_bytes = if entries == 0 {
        0
    } else {
        (XATTR_HEADER + entries) as u32
    };
    let (size, tail) = match &inode.content {
        Content::Directory(_) => {
            let size = directory_size(tree, id);
            (size, (size % BLOCK as u64) as usize)
        }
        Content::File(data) => (
            data.size,
            if data.tail.is_some() {
                (data.size % BLOCK as u64) as usize
            } else {
                0
            },
        ),
        Content::Symlink(target) => (target.len() as u64, target.len()),
        _ => (0, 0),
    };
    let attributes = &inode.attributes;
    place.size = size;
    place.extended = time(attributes) != build_time
        || attributes.uid > u32::from(u16::MAX)
        || attributes.gid > u32::from(u16::MAX)
        || place.links > u32::from(u16::MAX)
        || size > u64::from(u32::MAX);
    let fits = inode_bytes(place.extended) + place.xattr_bytes as usize + tail <= BLOCK;
    match &inode.content {
        Content::File(data) => {
            place.inline_bytes = tail as u16;
            place.first_block = if size == tail as u64 { 0 } else { data.first_block };
        }
        Content::Directory(_) | Content::Symlink(_) => {
            place.inline_bytes = if fits { tail as u16 } else { 0 };
            let blocks = (size - u64::from(place.inline_bytes)).div_ceil(BLOCK as u64);
            if blocks > 0 {
                place.first_block = u32::try_from(*directory_block).map_err(|_| ErofsError::TooLarge)?;
                *directory_block += blocks;
            }
        }
        _ => {}
    }
    Ok(())
}

fn inode_bytes(extended: bool) -> usize {
    if extended { EXTENDED_INODE } else { COMPACT_INODE }
}

/// Hands out space for inodes: never across a block's end unless larger than a block.
#[derive(Debug, Default)]
struct Space {
    next_block: u64,
    /// Free bytes at the end of a block, and the block.
    free: BTreeSet<(usize, u64)>,
}

impl Space {
    /// Space for `bytes`, as a slot number.
    fn take(&mut self, bytes: usize) -> Result<u64, ErofsError> {
        let need = bytes.next_multiple_of(SLOT);
        let slots = (BLOCK / SLOT) as u64;
        let best = self.free.range((need, 0)..).next().copied();
        if let Some((free, block)) = best {
            self.free.remove(&(free, block));
            self.give_back(free - need, block);
            return Ok(block * slots + ((BLOCK - free) / SLOT) as u64);
        }
        let first = self.next_block;
        let count = need.div_ceil(BLOCK);
        self.next_block = first.checked_add(count as u64).ok_or(ErofsError::TooLarge)?;
        self.give_back(count * BLOCK - need, self.next_block - 1);
        Ok(first * slots)
    }

    fn give_back(&mut self, free: usize, block: u64) {
        if free >= COMPACT_INODE {
            self.free.insert((free, block));
        }
    }

    fn blocks(&self) -> u64 {
        self.next_block
    }
}

/// A directory's entry: name, type as in `linux/fs_types.h`, inode number.
type Entry<'a> = (&'a [u8], u8, u64);

/// All entries of a directory with `.` and `..`, in the order of their bytes as the kernel's binary search needs them.
fn listing<'a>(tree: &'a Tree, id: InodeId, places: &[Place]) -> Option<Vec<Entry<'a>>> {
    let directory = tree.directory(id)?;
    let nid = |id: InodeId| places.get(id as usize).map_or(0, |place| place.nid);
    let mut entries = vec![(b".".as_slice(), 2, nid(id)), (b"..", 2, nid(directory.parent))];
    for (name, child) in &directory.entries {
        let kind = match tree.inode(*child).map(|inode| &inode.content) {
            Some(Content::File(_)) => 1,
            Some(Content::Directory(_)) => 2,
            Some(Content::CharDevice(_) | Content::Whiteout) => 3,
            Some(Content::BlockDevice(_)) => 4,
            Some(Content::Fifo) => 5,
            Some(Content::Symlink(_)) => 7,
            None => 0,
        };
        entries.push((name, kind, nid(*child)));
    }
    entries.sort_unstable_by_key(|(name, ..)| *name);
    Some(entries)
}

fn directory_size(tree: &Tree, id: InodeId) -> u64 {
    let entries = listing(tree, id, &[]).unwrap_or_default();
    let groups = block_groups(&entries);
    let last = groups
        .last()
        .map_or(0, |group| group.iter().map(|(name, ..)| DIRENT + name.len()).sum());
    (groups.len().saturating_sub(1) * BLOCK + last) as u64
}

/// Cuts a listing into what fits a block each.
fn block_groups<'e, 'a>(entries: &'e [Entry<'a>]) -> Vec<&'e [Entry<'a>]> {
    let mut groups = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|(name, ..)| {
            used += DIRENT + name.len();
            used <= BLOCK
        });
        // Names are limited: a block always holds one.
        let (group, later) = rest.split_at(fits.count().max(1));
        groups.push(group);
        rest = later;
    }
    groups
}

fn encode_directory(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for group in block_groups(entries) {
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        let mut name_offset = group.len() * DIRENT;
        for (name, kind, nid) in group {
            out.extend(nid.to_le_bytes());
            out.extend((name_offset as u16).to_le_bytes());
            out.extend([*kind, 0]);
            name_offset += name.len();
        }
        for (name, ..) in group {
            out.extend_from_slice(name);
        }
    }
    out
}

/// Writes the inodes in the order of their places, with what follows each of them.
fn write_inodes(
    tree: &Tree,
    places: &[Place],
    blocks: &mut BlockWriter<'_>,
    spill: &mut Spill,
) -> Result<(), ErofsError> {
    let mut order: Vec<(u64, InodeId)> = numbered(places).map(|(id, place)| (place.nid, id)).collect();
    order.sort_unstable();
    let mut position = 0;
    let mut bytes = Vec::with_capacity(BLOCK);
    for (nid, id) in order {
        let (Some(inode), Some(place)) = (tree.inode(id), places.get(id as usize)) else {
            continue;
        };
        blocks.skip(nid * SLOT as u64 - position)?;
        bytes.clear();
        raw_inode(inode, id, place)?.encode(&mut bytes);
        if place.xattr_bytes > 0 {
            bytes.extend([0; XATTR_HEADER]);
            bytes.extend_from_slice(&inode.attributes.xattrs);
            if matches!(&inode.content, Content::Directory(directory) if directory.opaque) {
                bytes.extend_from_slice(OPAQUE_XATTR);
            }
        }
        if place.inline_bytes > 0 {
            inline_data(tree, inode, id, place, places, spill, &mut bytes)?;
        }
        blocks.write(&bytes)?;
        position = nid * SLOT as u64 + bytes.len() as u64;
    }
    Ok(())
}

fn inline_data(
    tree: &Tree,
    inode: &Inode,
    id: InodeId,
    place: &Place,
    places: &[Place],
    spill: &mut Spill,
    out: &mut Vec<u8>,
) -> Result<(), ErofsError> {
    match &inode.content {
        Content::File(data) => spill.read(data.tail.unwrap_or(0), usize::from(place.inline_bytes), out),
        Content::Symlink(target) => {
            out.extend_from_slice(target);
            Ok(())
        }
        _ => {
            let bytes = encode_directory(&listing(tree, id, places).unwrap_or_default());
            out.extend_from_slice(
                bytes
                    .get(bytes.len() - usize::from(place.inline_bytes)..)
                    .unwrap_or_default(),
            );
            Ok(())
        }
    }
}

fn raw_inode(inode: &Inode, id: InodeId, place: &Place) -> Result<RawInode, ErofsError> {
    let (kind, block_or_device) = match &inode.content {
        Content::Directory(_) => (S_IFDIR, place.first_block),
        Content::File(_) => (S_IFREG, place.first_block),
        Content::Symlink(_) => (S_IFLNK, place.first_block),
        Content::CharDevice(device) => (S_IFCHR, *device),
        Content::BlockDevice(device) => (S_IFBLK, *device),
        Content::Fifo => (S_IFIFO, 0),
        Content::Whiteout => (S_IFCHR, device_number(0, 0).unwrap_or(0)),
    };
    let attributes = &inode.attributes;
    Ok(RawInode {
        extended: place.extended,
        layout: if place.inline_bytes > 0 {
            DataLayout::Inline
        } else {
            DataLayout::Plain
        },
        xattr_bytes: place.xattr_bytes as usize,
        mode: kind | attributes.mode,
        links: place.links,
        size: place.size,
        block_or_device,
        // Only what 32-bit programs see; any number that differs between inodes does.
        number: id.checked_add(1).ok_or(ErofsError::TooManyEntries)?,
        uid: attributes.uid,
        gid: attributes.gid,
        mtime_seconds: attributes.mtime_seconds,
        mtime_nanoseconds: attributes.mtime_nanoseconds,
    })
}

/// Writes the superblock and sets the file's final length. Last, so that a file cut short is no image.
pub(super) fn seal(file: &std::fs::File, super_block: &SuperBlock) -> Result<(), ErofsError> {
    use std::os::unix::fs::FileExt;
    let length = u64::from(super_block.blocks) * BLOCK as u64;
    file.set_len(length).map_err(OutputError)?;
    file.write_all_at(&super_block.encode(), 0).map_err(OutputError)?;
    Ok(())
}
