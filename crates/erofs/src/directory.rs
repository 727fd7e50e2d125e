//! Directories on disk: entries in the order for the kernel's binary search, split into blocks.

use super::error::ErofsError;
use super::format::{BLOCK, DIRENT};
use super::record::Type;
use super::spill::Window;
use super::tree::{InodeId, Tree};

/// The entries of one directory, with `.` and `..`.
#[derive(Debug, Default)]
pub(super) struct Listing {
    names: Vec<u8>,
    entries: Vec<ListedEntry>,
}

#[derive(Debug, Clone, Copy)]
struct ListedEntry {
    name_start: u32,
    name_bytes: u8,
    /// Whether this is `.` or `..`.
    own: bool,
    id: InodeId,
}

impl Listing {
    /// Reads the names of `children`, the entries of the directory `id`, and sorts them.
    pub fn read(
        &mut self,
        tree: &Tree<'_>,
        id: InodeId,
        children: &[InodeId],
        window: &mut Window,
    ) -> Result<(), ErofsError> {
        self.names.clear();
        self.entries.clear();
        let own = [(b".".as_slice(), id), (b"..", tree.parent(id))];
        for (name, id) in own {
            self.entries.push(ListedEntry {
                name_start: self.names.len() as u32,
                name_bytes: name.len() as u8,
                own: true,
                id,
            });
            self.names.extend_from_slice(name);
        }
        for id in children {
            let name_start = u32::try_from(self.names.len()).map_err(|_| ErofsError::TooLarge)?;
            let name_bytes = tree.name(*id, window, &mut self.names)?;
            self.entries.push(ListedEntry {
                name_start,
                name_bytes,
                own: false,
                id: *id,
            });
        }
        let names = &self.names;
        self.entries.sort_unstable_by_key(|entry| name_of(names, entry));
        Ok(())
    }

    /// The entries' inodes in order, without `.` and `..`.
    pub fn order(&self) -> impl Iterator<Item = InodeId> {
        self.entries.iter().filter(|entry| !entry.own).map(|entry| entry.id)
    }

    /// Replaces each entry's inode with the result of `inode`.
    pub fn resolve(&mut self, mut inode: impl FnMut(InodeId) -> Result<InodeId, ErofsError>) -> Result<(), ErofsError> {
        for entry in &mut self.entries {
            entry.id = inode(entry.id)?;
        }
        Ok(())
    }

    /// Splits the entries into groups that fit one block each.
    fn groups(&self) -> impl Iterator<Item = &[ListedEntry]> {
        let mut rest = self.entries.as_slice();
        std::iter::from_fn(move || {
            let mut used = 0;
            let fits = rest.iter().take_while(|entry| {
                used += DIRENT + usize::from(entry.name_bytes);
                used <= BLOCK
            });
            // Names are limited, so a block always holds at least one entry.
            let (group, later) = rest.split_at(fits.count().clamp(rest.len().min(1), rest.len()));
            rest = later;
            (!group.is_empty()).then_some(group)
        })
    }

    /// Size of the directory in bytes.
    pub fn size(&self) -> u64 {
        let (count, last) = self.groups().fold((0u64, 0), |(count, _), group| {
            let bytes = group
                .iter()
                .map(|entry| DIRENT + usize::from(entry.name_bytes))
                .sum::<usize>();
            (count + 1, bytes)
        });
        count.saturating_sub(1) * BLOCK as u64 + last as u64
    }

    /// Calls `each` with every block and whether it is the last. The last block is cut to its length.
    pub fn encode(
        &self,
        tree: &Tree<'_>,
        nid: impl Fn(InodeId) -> u64,
        mut each: impl FnMut(&[u8], bool) -> Result<(), ErofsError>,
    ) -> Result<(), ErofsError> {
        let mut block = Vec::with_capacity(BLOCK);
        let mut groups = self.groups().peekable();
        while let Some(group) = groups.next() {
            block.clear();
            let mut name_offset = group.len() * DIRENT;
            for entry in group {
                block.extend(nid(entry.id).to_le_bytes());
                block.extend((name_offset as u16).to_le_bytes());
                block.extend([file_type(tree.kind(entry.id)), 0]);
                name_offset += usize::from(entry.name_bytes);
            }
            for entry in group {
                block.extend_from_slice(name_of(&self.names, entry));
            }
            each(&block, groups.peek().is_none())?;
        }
        Ok(())
    }
}

fn name_of<'n>(names: &'n [u8], entry: &ListedEntry) -> &'n [u8] {
    let start = entry.name_start as usize;
    names
        .get(start..start + usize::from(entry.name_bytes))
        .unwrap_or_default()
}

/// File types as in `linux/fs_types.h`. A hard link is listed with its target's type.
fn file_type(kind: Option<Type>) -> u8 {
    match kind {
        Some(Type::File) => 1,
        Some(Type::Directory) => 2,
        Some(Type::CharDevice | Type::Whiteout) => 3,
        Some(Type::BlockDevice) => 4,
        Some(Type::Fifo) => 5,
        Some(Type::Symlink) => 7,
        Some(Type::Link) | None => 0,
    }
}
