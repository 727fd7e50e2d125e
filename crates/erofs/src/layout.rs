//! Places inodes and directories once the tree is complete, and writes them after the content.
//!
//! The final image consists of superblock, file content, directory blocks and inodes. Inodes with inline data are
//! placed by best fit, so that small files fill the space that larger ones leave in a block. Memory holds only a few
//! numbers per entry: each pass reads the records again, in order.

use std::collections::BTreeSet;

use super::data::{BlockWriter, Written};
use super::directory::Listing;
use super::error::{ErofsError, OutputError};
use super::format::{
    BLOCK, COMPACT_INODE, DataLayout, EXTENDED_INODE, INDEX_ENTRY, INDEX_HEADER, OPAQUE_XATTR, RawInode, S_IFBLK,
    S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFREG, SLOT, SuperBlock, XATTR_HEADER,
};
use super::needs::Needs;
use super::record::{Place, Record, Type};
use super::spill::{Spill, Window};
use super::tree::{InodeId, ROOT, Tree};

/// Maximum number of blocks with free space that are remembered.
const FREE_MAX: usize = 4096;
/// How much of a compressed file's index is copied at a time.
const INDEX_BUFFER: usize = 64 * 1024;

/// The form of an inode, and the data that follows it.
#[derive(Debug, Clone, Copy)]
struct Form {
    extended: bool,
    inline_bytes: usize,
    xattr_bytes: usize,
    size: u64,
    /// Length of a compressed file's index entries alone.
    index_bytes: Option<u64>,
}

impl Form {
    fn head_bytes(&self) -> usize {
        inode_bytes(self.extended) + self.xattr_bytes
    }

    /// Length of the inode and everything that follows it.
    fn whole_bytes(&self) -> u64 {
        let head = self.head_bytes();
        match self.index_bytes {
            Some(index) => (head.next_multiple_of(INDEX_ENTRY) + INDEX_HEADER) as u64 + index,
            None => (head + self.inline_bytes) as u64,
        }
    }

    /// Number of blocks that a directory or symbolic link needs outside its inode.
    fn own_blocks(&self) -> u64 {
        (self.size - self.inline_bytes as u64).div_ceil(BLOCK as u64)
    }
}

/// A directory, or a symbolic link that does not fit its inode.
#[derive(Debug, Clone, Copy)]
struct Extent {
    id: InodeId,
    size: u32,
    first_block: u32,
    /// End of the directory's entries in [`Layout::children`]; they start where the previous directory's entries end.
    children_end: u32,
}

struct Layout<'t> {
    tree: &'t Tree<'t>,
    /// Link counts by inode; zero if the inode is unreachable.
    links: Vec<u32>,
    /// EROFS inode numbers by inode: the position in slots from the start of the metadata.
    nids: Vec<u32>,
    /// The inodes of all directories' entries, directory by directory.
    children: Vec<InodeId>,
    /// The places of directories and symbolic links, in inode order.
    extents: Vec<Extent>,
    build_time: (i64, u32),
}

/// The result of writing an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image, a multiple of 4096.
    pub length_bytes: u64,
    /// Number of inodes.
    pub inodes: u64,
    /// The image's dependencies on the layers below.
    pub needs: Needs,
}

/// Writes everything after the content.
pub(super) fn write(tree: &Tree<'_>, content: Written<'_>) -> Result<(Summary, SuperBlock), ErofsError> {
    let Written {
        mut blocks,
        spill,
        compressed,
    } = content;
    let mut layout = Layout::count(tree)?;
    layout.build_time = layout.common_time()?;
    let first = u64::from(blocks.next_block()?);
    let (meta_block, meta_blocks) = layout.place(first)?;
    layout.write_extents(&mut blocks)?;
    layout.write_inodes(&mut blocks, &spill)?;
    blocks.pad()?;
    blocks.flush()?;
    let inodes = layout.links.iter().filter(|links| **links > 0).count() as u64;
    let needs = tree.needs();
    let super_block = SuperBlock {
        root_nid: 0,
        inodes,
        build_seconds: layout.build_time.0,
        build_nanoseconds: layout.build_time.1,
        blocks: u32::try_from(meta_block + meta_blocks).map_err(|_| ErofsError::TooLarge)?,
        meta_block: u32::try_from(meta_block).map_err(|_| ErofsError::TooLarge)?,
        uuid: blocks.digest(),
        volume_name: needs.encode(),
        compressed,
    };
    Ok((
        Summary {
            length_bytes: u64::from(super_block.blocks) * BLOCK as u64,
            inodes,
            needs,
        },
        super_block,
    ))
}

impl<'t> Layout<'t> {
    /// Counts the links of all reachable inodes and collects the directories' entries.
    fn count(tree: &'t Tree<'t>) -> Result<Self, ErofsError> {
        let (mut window, mut buffer) = (Window::default(), Vec::new());
        let mut links = vec![0u32; tree.len() as usize];
        let mut children = Vec::new();
        for id in 0..tree.len() {
            let parent = tree.parent(id);
            // A directory precedes all its entries.
            let reached = id == ROOT
                || (!tree.is_replaced(id)
                    && links.get(parent as usize).is_some_and(|links| *links > 0)
                    && tree.kind(parent) == Some(Type::Directory));
            if !reached {
                continue;
            }
            if id != ROOT {
                children.push(id);
            }
            let mut add = |id: InodeId, count| {
                if let Some(links) = links.get_mut(id as usize) {
                    *links += count;
                }
            };
            match tree.kind(id) {
                Some(Type::Directory) => {
                    add(id, 2);
                    if id != ROOT {
                        add(parent, 1);
                    }
                }
                Some(Type::Link) => add(tree.record(id, &mut window, &mut buffer)?.number, 1),
                _ => add(id, 1),
            }
        }
        children.sort_unstable_by_key(|id| (tree.parent(*id), *id));
        Ok(Self {
            tree,
            nids: vec![0; links.len()],
            links,
            children,
            extents: Vec::new(),
            build_time: (0, 0),
        })
    }

    fn reached(&self) -> impl Iterator<Item = (InodeId, u32)> {
        (0..).zip(self.links.iter().copied()).filter(|(_, links)| *links > 0)
    }

    /// The most common modification time. Compact inodes store no time and use the image's.
    fn common_time(&self) -> Result<(i64, u32), ErofsError> {
        let (mut window, mut buffer) = (Window::default(), Vec::new());
        let mut candidates = Candidates::default();
        for (id, _) in self.reached() {
            let time = time(&self.tree.record(id, &mut window, &mut buffer)?);
            if time.0 >= 0 {
                candidates.add(time);
            }
        }
        Ok(candidates.best())
    }

    fn form(&self, id: InodeId, record: &Record, links: u32, size: u64, tail: usize) -> Form {
        let attributes = &record.attributes;
        let entries = attributes.xattrs.len() + if self.tree.is_opaque(id) { OPAQUE_XATTR.len() } else { 0 };
        let mut form = Form {
            extended: time(record) != self.build_time
                || attributes.uid > u32::from(u16::MAX)
                || attributes.gid > u32::from(u16::MAX)
                || links > u32::from(u16::MAX)
                || size > u64::from(u32::MAX),
            inline_bytes: 0,
            xattr_bytes: if entries == 0 { 0 } else { XATTR_HEADER + entries },
            size,
            index_bytes: None,
        };
        // File content is already placed.
        let is_file = self.tree.kind(id) == Some(Type::File);
        if is_file && matches!(record.data.place, Place::Compressed { .. }) {
            form.index_bytes = Some(size.div_ceil(BLOCK as u64) * INDEX_ENTRY as u64);
        }
        if is_file || form.head_bytes() + tail <= BLOCK {
            form.inline_bytes = tail;
        }
        form
    }

    /// Decides the position of everything, with directories starting at block `next`. Returns the first block of the
    /// inodes and their block count.
    fn place(&mut self, mut next: u64) -> Result<(u64, u64), ErofsError> {
        let tree = self.tree;
        let (mut window, mut names, mut buffer) = (Window::default(), Window::default(), Vec::new());
        let mut listing = Listing::default();
        let mut space = Space::default();
        let mut children_end = 0;
        for id in 0..tree.len() {
            let links = self.links.get(id as usize).copied().unwrap_or(0);
            if links == 0 {
                continue;
            }
            let record = tree.record(id, &mut window, &mut buffer)?;
            let is_directory = tree.kind(id) == Some(Type::Directory);
            let size = if is_directory {
                let start = children_end;
                let rest = self.children.get(start..).unwrap_or_default();
                children_end += rest.partition_point(|child| tree.parent(*child) <= id);
                let children = self.children.get_mut(start..children_end).unwrap_or_default();
                listing.read(tree, id, children, &mut names)?;
                for (place, child) in children.iter_mut().zip(listing.order()) {
                    *place = child;
                }
                listing.size()
            } else {
                size_of(tree.kind(id), &record)
            };
            let form = self.form(id, &record, links, size, tail_of(tree.kind(id), &record, size));
            let is_file = tree.kind(id) == Some(Type::File);
            let own_blocks = if is_file { 0 } else { form.own_blocks() };
            if is_directory || own_blocks > 0 {
                self.extents.push(Extent {
                    id,
                    size: u32::try_from(size).map_err(|_| ErofsError::TooLarge)?,
                    first_block: u32::try_from(if own_blocks > 0 { next } else { 0 })
                        .map_err(|_| ErofsError::TooLarge)?,
                    children_end: u32::try_from(children_end).map_err(|_| ErofsError::TooLarge)?,
                });
                next += own_blocks;
            }
            let nid = space.take(form.whole_bytes())?;
            if let Some(place) = self.nids.get_mut(id as usize) {
                *place = u32::try_from(nid).map_err(|_| ErofsError::TooLarge)?;
            }
        }
        Ok((next, space.blocks()))
    }

    fn nid(&self, id: InodeId) -> u64 {
        u64::from(self.nids.get(id as usize).copied().unwrap_or(0))
    }

    fn extent(&self, id: InodeId) -> Option<(Extent, &[InodeId])> {
        let index = self.extents.binary_search_by_key(&id, |extent| extent.id).ok()?;
        let extent = self.extents.get(index)?;
        let start = index
            .checked_sub(1)
            .and_then(|previous| self.extents.get(previous))
            .map_or(0, |previous| previous.children_end);
        let children = self.children.get(start as usize..extent.children_end as usize)?;
        Some((*extent, children))
    }

    /// The inode that a directory entry refers to.
    fn inode_of(&self, id: InodeId, window: &mut Window, buffer: &mut Vec<u8>) -> Result<InodeId, ErofsError> {
        match self.tree.kind(id) {
            Some(Type::Link) => Ok(self.tree.record(id, window, buffer)?.number),
            _ => Ok(id),
        }
    }

    /// Reads a directory, sorted, with its hard links resolved.
    fn listing(
        &self,
        id: InodeId,
        children: &[InodeId],
        listing: &mut Listing,
        window: &mut Window,
    ) -> Result<(), ErofsError> {
        listing.read(self.tree, id, children, window)?;
        let mut buffer = Vec::new();
        listing.resolve(|id| self.inode_of(id, window, &mut buffer))
    }

    /// Writes the blocks of directories and of symbolic links that do not fit their inodes.
    fn write_extents(&self, blocks: &mut BlockWriter<'_>) -> Result<(), ErofsError> {
        let (mut window, mut names, mut buffer) = (Window::default(), Window::default(), Vec::new());
        let mut listing = Listing::default();
        for extent in &self.extents {
            if extent.first_block == 0 {
                continue;
            }
            let record = self.tree.record(extent.id, &mut window, &mut buffer)?;
            if self.tree.kind(extent.id) != Some(Type::Directory) {
                blocks.write(&record.target)?;
                blocks.pad()?;
                continue;
            }
            let form = self.directory_form(extent, &record);
            let (_, children) = self.extent(extent.id).ok_or(ErofsError::TooLarge)?;
            self.listing(extent.id, children, &mut listing, &mut names)?;
            listing.encode(
                self.tree,
                |id| self.nid(id),
                |block, last| {
                    if last && form.inline_bytes > 0 {
                        return Ok(());
                    }
                    blocks.write(block)?;
                    blocks.pad()
                },
            )?;
        }
        Ok(())
    }

    fn directory_form(&self, extent: &Extent, record: &Record) -> Form {
        let links = self.links.get(extent.id as usize).copied().unwrap_or(0);
        let size = u64::from(extent.size);
        let tail = (size % BLOCK as u64) as usize;
        self.form(extent.id, record, links, size, tail)
    }

    /// Writes the inodes in the order of their positions, each with the data that follows it.
    fn write_inodes(&self, blocks: &mut BlockWriter<'_>, spill: &Spill) -> Result<(), ErofsError> {
        let mut order: Vec<InodeId> = self.reached().map(|(id, _)| id).collect();
        order.sort_unstable_by_key(|id| self.nid(*id));
        let (mut window, mut names, mut content_window) = (Window::default(), Window::default(), Window::default());
        let (mut buffer, mut listing) = (Vec::new(), Listing::default());
        let mut bytes = Vec::with_capacity(BLOCK);
        let mut position = 0;
        for id in order {
            let record = self.tree.record(id, &mut window, &mut buffer)?;
            let kind = self.tree.kind(id);
            let extent = self.extent(id);
            let form = match (&extent, kind) {
                (Some((extent, _)), Some(Type::Directory)) => self.directory_form(extent, &record),
                _ => {
                    let links = self.links.get(id as usize).copied().unwrap_or(0);
                    let size = size_of(kind, &record);
                    self.form(id, &record, links, size, tail_of(kind, &record, size))
                }
            };
            let start = self.nid(id) * SLOT as u64;
            blocks.skip(start - position)?;
            bytes.clear();
            self.raw_inode(id, &record, &form, extent.map_or(0, |(extent, _)| extent.first_block))
                .encode(&mut bytes);
            if form.xattr_bytes > 0 {
                bytes.extend([0; XATTR_HEADER]);
                bytes.extend_from_slice(&record.attributes.xattrs);
                if self.tree.is_opaque(id) {
                    bytes.extend_from_slice(OPAQUE_XATTR);
                }
            }
            match (kind, record.data.place) {
                (Some(Type::File), Place::Compressed { mut index, .. }) => {
                    bytes.resize(bytes.len().next_multiple_of(INDEX_ENTRY) + INDEX_HEADER, 0);
                    let end = index.saturating_add(form.index_bytes.unwrap_or(0));
                    while index < end {
                        blocks.write(&bytes)?;
                        bytes.clear();
                        let piece = (end - index).min(INDEX_BUFFER as u64);
                        spill.read(&mut content_window, index, piece as usize, &mut bytes)?;
                        index += piece;
                    }
                }
                _ if form.inline_bytes == 0 => {}
                (Some(Type::File), Place::Plain { tail, .. }) => {
                    let tail = tail.unwrap_or(0);
                    spill.read(&mut content_window, tail, form.inline_bytes, &mut bytes)?;
                }
                (Some(Type::Symlink), _) => bytes.extend_from_slice(&record.target),
                _ => {
                    let (_, children) = extent.ok_or(ErofsError::TooLarge)?;
                    self.listing(id, children, &mut listing, &mut names)?;
                    listing.encode(
                        self.tree,
                        |id| self.nid(id),
                        |block, last| {
                            if last {
                                bytes.extend_from_slice(block);
                            }
                            Ok(())
                        },
                    )?;
                }
            }
            blocks.write(&bytes)?;
            position = start + form.whole_bytes();
        }
        Ok(())
    }

    fn raw_inode(&self, id: InodeId, record: &Record, form: &Form, own_block: u32) -> RawInode {
        let has_blocks = form.size > form.inline_bytes as u64;
        let (kind, block_or_device) = match self.tree.kind(id) {
            Some(Type::Directory) => (S_IFDIR, own_block),
            Some(Type::File) | None => (S_IFREG, if has_blocks { record.data.place.block() } else { 0 }),
            Some(Type::Symlink) => (S_IFLNK, own_block),
            Some(Type::CharDevice) => (S_IFCHR, record.number),
            Some(Type::BlockDevice) => (S_IFBLK, record.number),
            Some(Type::Fifo) => (S_IFIFO, 0),
            // Hard links are not inodes.
            Some(Type::Whiteout | Type::Link) => (S_IFCHR, 0),
        };
        let attributes = &record.attributes;
        RawInode {
            extended: form.extended,
            layout: if form.index_bytes.is_some() {
                DataLayout::Compressed
            } else if form.inline_bytes > 0 {
                DataLayout::Inline
            } else {
                DataLayout::Plain
            },
            xattr_bytes: form.xattr_bytes,
            mode: kind | attributes.mode,
            links: self.links.get(id as usize).copied().unwrap_or(1),
            size: form.size,
            block_or_device,
            // Only 32-bit programs see this number; it only has to differ between inodes.
            number: id + 1,
            uid: attributes.uid,
            gid: attributes.gid,
            mtime_seconds: attributes.mtime_seconds,
            mtime_nanoseconds: attributes.mtime_nanoseconds,
        }
    }
}

fn time(record: &Record) -> (i64, u32) {
    (record.attributes.mtime_seconds, record.attributes.mtime_nanoseconds)
}

fn size_of(kind: Option<Type>, record: &Record) -> u64 {
    match kind {
        Some(Type::File) => record.data.size,
        Some(Type::Symlink) => record.target.len() as u64,
        _ => 0,
    }
}

/// Length of the data that could follow the inode.
fn tail_of(kind: Option<Type>, record: &Record, size: u64) -> usize {
    match kind {
        Some(Type::File) if !matches!(record.data.place, Place::Plain { tail: Some(_), .. }) => 0,
        Some(Type::File | Type::Directory) => (size % BLOCK as u64) as usize,
        Some(Type::Symlink) => size as usize,
        _ => 0,
    }
}

fn inode_bytes(extended: bool) -> usize {
    if extended { EXTENDED_INODE } else { COMPACT_INODE }
}

/// Finds the most frequent value in one pass with little memory (Misra and Gries). Exact for few distinct values,
/// otherwise a frequent one.
#[derive(Debug, Default)]
struct Candidates {
    counts: Vec<((i64, u32), u64)>,
}

impl Candidates {
    const MAX: usize = 64;

    fn add(&mut self, value: (i64, u32)) {
        if let Some((_, count)) = self.counts.iter_mut().find(|(other, _)| *other == value) {
            *count += 1;
        } else if self.counts.len() < Self::MAX {
            self.counts.push((value, 1));
        } else {
            self.counts.retain_mut(|(_, count)| {
                *count -= 1;
                *count > 0
            });
        }
    }

    /// The earliest of equally frequent values, so that the same layer gives the same image.
    fn best(&self) -> (i64, u32) {
        let best = self
            .counts
            .iter()
            .max_by_key(|(value, count)| (*count, std::cmp::Reverse(*value)));
        best.map_or((0, 0), |(value, _)| *value)
    }
}

/// Allocates space for inodes. An inode crosses a block boundary only if it is larger than a block.
#[derive(Debug, Default)]
struct Space {
    next_block: u64,
    /// Free bytes at the end of a block, and the block's number.
    free: BTreeSet<(usize, u64)>,
}

impl Space {
    /// Allocates `bytes`; returns the slot number.
    fn take(&mut self, bytes: u64) -> Result<u64, ErofsError> {
        let need = usize::try_from(bytes).map_err(|_| ErofsError::TooLarge)?;
        let need = need.next_multiple_of(SLOT);
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

    /// Number of blocks for the inodes. The last block is not filled completely: `fsck.erofs` reads an extended
    /// attribute header after every inode, even if the inode has no attributes.
    fn blocks(&self) -> u64 {
        let has_room = self.free.iter().any(|(_, block)| block + 1 == self.next_block);
        self.next_block + u64::from(!has_room)
    }

    fn give_back(&mut self, free: usize, block: u64) {
        if free >= COMPACT_INODE {
            self.free.insert((free, block));
        }
        if self.free.len() > FREE_MAX {
            self.free.pop_first();
        }
    }
}

/// Writes the superblock and sets the file's final length. This comes last, so that a truncated file is not a valid
/// image.
pub(super) fn seal(file: &std::fs::File, super_block: &SuperBlock) -> Result<(), ErofsError> {
    use std::os::unix::fs::FileExt;
    let length = u64::from(super_block.blocks) * BLOCK as u64;
    file.set_len(length).map_err(OutputError)?;
    file.write_all_at(&super_block.encode(), 0).map_err(OutputError)?;
    Ok(())
}
