//! The tree of a layer in memory: names and attributes, no content. Paths are confined here, and later entries replace
//! earlier ones as they do when Docker or containerd unpack a layer.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::mem::size_of;

use super::ErofsError;
use super::format::NAME_MAX;

/// Index of an inode in [`Tree`].
pub(super) type InodeId = u32;
/// The root directory's.
pub(super) const ROOT: InodeId = 0;
/// As the kernel's `MAXSYMLINKS`.
const SYMLINKS_MAX: usize = 40;
/// What a name in a directory costs beyond its bytes: its share of a tree node and the allocation.
const NAME_OVERHEAD: usize = 48;

/// Owner, permissions, times and extended attributes.
#[derive(Debug, Clone, Default)]
pub(super) struct Attributes {
    /// Permission bits (07777).
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
    /// Encoded entries without the header, a multiple of 4 bytes.
    pub xattrs: Box<[u8]>,
}

/// Where a file's content went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub size: u64,
    /// First of the consecutive blocks.
    pub first_block: u32,
    /// Where the partial last block waits in the spill, if it is to follow the inode.
    pub tail: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Directory {
    pub entries: BTreeMap<Box<[u8]>, InodeId>,
    pub parent: InodeId,
    /// Hides what lower layers have at this place.
    pub opaque: bool,
}

#[derive(Debug)]
pub(super) enum Content {
    Directory(Box<Directory>),
    File(Data),
    Symlink(Box<[u8]>),
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
    /// Hides a name of lower layers; becomes overlayfs' character device 0/0.
    Whiteout,
}

#[derive(Debug)]
pub(super) struct Inode {
    pub attributes: Attributes,
    pub content: Content,
}

/// The tree; inode 0 is the root.
#[derive(Debug)]
pub(super) struct Tree {
    inodes: Vec<Inode>,
    memory_bytes: usize,
    memory_max_bytes: usize,
}

impl Tree {
    pub fn new(memory_max_bytes: usize) -> Self {
        let root = Inode {
            attributes: implied(),
            content: Content::Directory(Box::default()),
        };
        Self {
            inodes: vec![root],
            memory_bytes: 0,
            memory_max_bytes,
        }
    }

    /// How many inodes there are, replaced ones included.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    pub fn inode(&self, id: InodeId) -> Option<&Inode> {
        self.inodes.get(id as usize)
    }

    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id)?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn directory_mut(&mut self, id: InodeId) -> Option<&mut Directory> {
        match &mut self.inodes.get_mut(id as usize)?.content {
            Content::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    fn child(&self, directory: InodeId, name: &[u8]) -> Option<InodeId> {
        self.directory(directory)?.entries.get(name).copied()
    }

    /// Puts a file at `path`; parents that have no entry of their own are made.
    pub fn insert(&mut self, path: &[u8], attributes: Attributes, content: Content) -> Result<(), ErofsError> {
        let Some((parent, name)) = self.place(path)? else {
            // The root itself: only its attributes can be given.
            return match (content, self.inodes.first_mut()) {
                (Content::Directory(_), Some(root)) => {
                    root.attributes = attributes;
                    Ok(())
                }
                _ => Err(ErofsError::entry(
                    path,
                    "the root is a directory and cannot be replaced by another file",
                )),
            };
        };
        self.insert_at(parent, name, attributes, content)
    }

    fn insert_at(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        mut content: Content,
    ) -> Result<(), ErofsError> {
        let existing = self.child(parent, name);
        if let Content::Directory(new) = &mut content {
            new.parent = parent;
            match existing.and_then(|id| self.inodes.get_mut(id as usize)) {
                Some(old) if matches!(old.content, Content::Directory(_)) => {
                    old.attributes = attributes;
                    return Ok(());
                }
                Some(old) if matches!(old.content, Content::Whiteout) => new.opaque = true,
                _ => {}
            }
        }
        let symlink_bytes = if let Content::Symlink(target) = &content {
            target.len()
        } else {
            0
        };
        self.charge(size_of::<Inode>() + attributes.xattrs.len() + symlink_bytes)?;
        let id = InodeId::try_from(self.inodes.len()).map_err(|_| ErofsError::TooManyEntries)?;
        self.inodes.push(Inode { attributes, content });
        self.link(parent, name, id)
    }

    /// Makes `path` another name of the file at `target`.
    pub fn insert_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), ErofsError> {
        let missing = || {
            let target = target.escape_ascii();
            ErofsError::entry(
                path,
                format!("is a hard link to {target}, which is no file of this layer"),
            )
        };
        let (parent, name) = self.place(target)?.ok_or_else(missing)?;
        let id = self.child(parent, name).ok_or_else(missing)?;
        if self
            .inode(id)
            .is_none_or(|inode| matches!(inode.content, Content::Directory(_) | Content::Whiteout))
        {
            return Err(missing());
        }
        match self.place(path)? {
            Some((parent, name)) => self.link(parent, name, id),
            None => Err(ErofsError::entry(path, "the root cannot be a hard link")),
        }
    }

    /// Applies a whiteout entry of the OCI layer specification; `false` if `path` is none.
    pub fn whiteout(&mut self, path: &[u8], attributes: &Attributes) -> Result<bool, ErofsError> {
        let trimmed = path.trim_ascii_end_matches(b'/');
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            return Ok(false);
        };
        let Some((parent, _)) = self.place(path)? else {
            return Ok(false);
        };
        if hidden == b".wh..opq" {
            if let Some(directory) = self.directory_mut(parent) {
                directory.opaque = true;
            }
            return Ok(true);
        }
        // Other names of this form are aufs' own bookkeeping; Docker skips them too.
        if hidden.starts_with(b".wh.") {
            return Ok(true);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ErofsError::entry(path, "is a whiteout that names no file"));
        }
        match self.child(parent, hidden) {
            // A whiteout acts on lower layers only: what this layer has at the name stays, and merges with nothing.
            Some(id) => {
                if let Some(directory) = self.directory_mut(id) {
                    directory.opaque = true;
                }
            }
            None => {
                let attributes = Attributes {
                    mode: 0,
                    xattrs: Box::default(),
                    ..attributes.clone()
                };
                self.insert_at(parent, hidden, attributes, Content::Whiteout)?;
            }
        }
        Ok(true)
    }

    fn link(&mut self, parent: InodeId, name: &[u8], id: InodeId) -> Result<(), ErofsError> {
        self.charge(name.len() + NAME_OVERHEAD)?;
        if let Some(directory) = self.directory_mut(parent) {
            directory.entries.insert(name.into(), id);
        }
        Ok(())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ErofsError> {
        self.memory_bytes = self.memory_bytes.saturating_add(bytes);
        if self.memory_bytes > self.memory_max_bytes {
            Err(ErofsError::TooManyEntries)
        } else {
            Ok(())
        }
    }

    /// The directory and name that `path` means; `None` for the root.
    fn place<'a>(&mut self, path: &'a [u8]) -> Result<Option<(InodeId, &'a [u8])>, ErofsError> {
        let mut components = Vec::new();
        for component in path.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => return Err(ErofsError::entry(path, "contains `..`")),
                name if name.len() > NAME_MAX => {
                    return Err(ErofsError::entry(
                        path,
                        format!("has a name of more than {NAME_MAX} bytes"),
                    ));
                }
                name if name.contains(&0) => return Err(ErofsError::entry(path, "contains a NUL byte")),
                name => components.push(name),
            }
        }
        let Some(name) = components.pop() else {
            return Ok(None);
        };
        Ok(Some((self.walk(path, &components)?, name)))
    }

    /// The directory at `components`, made where missing. Symbolic links of this layer are followed, within its root.
    fn walk(&mut self, path: &[u8], components: &[&[u8]]) -> Result<InodeId, ErofsError> {
        let mut left: Vec<Cow<'_, [u8]>> = components.iter().rev().map(|name| Cow::Borrowed(*name)).collect();
        let mut here = ROOT;
        let mut followed = 0;
        while let Some(name) = left.pop() {
            if *name == *b".." {
                here = self.directory(here).map_or(ROOT, |directory| directory.parent);
                continue;
            }
            let child = self.child(here, &name);
            match child.and_then(|id| self.inode(id)).map(|inode| &inode.content) {
                Some(Content::Directory(_)) => here = child.unwrap_or(ROOT),
                None | Some(Content::Whiteout) => {
                    self.insert_at(here, &name, implied(), Content::Directory(Box::default()))?;
                    here = self.child(here, &name).unwrap_or(ROOT);
                }
                Some(Content::Symlink(target)) => {
                    followed += 1;
                    if followed > SYMLINKS_MAX {
                        return Err(ErofsError::entry(path, "leads through too many symbolic links"));
                    }
                    if target.starts_with(b"/") {
                        here = ROOT;
                    }
                    let names = target.split(|byte| *byte == b'/').rev();
                    for name in names.filter(|name| !matches!(*name, b"" | b".")) {
                        if name.len() > NAME_MAX {
                            return Err(ErofsError::entry(
                                path,
                                "leads through a symbolic link that cannot be followed",
                            ));
                        }
                        left.push(Cow::Owned(name.to_vec()));
                    }
                }
                Some(_) => {
                    let name = name.escape_ascii();
                    return Err(ErofsError::entry(
                        path,
                        format!("lies below {name}, which is no directory"),
                    ));
                }
            }
        }
        Ok(here)
    }
}

/// Attributes of a directory that has no entry of its own.
fn implied() -> Attributes {
    Attributes {
        mode: 0o755,
        ..Attributes::default()
    }
}

trait TrimEndMatches {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8];
}

impl TrimEndMatches for [u8] {
    fn trim_ascii_end_matches(&self, byte: u8) -> &[u8] {
        let end = self.iter().rposition(|other| *other != byte).map_or(0, |last| last + 1);
        self.get(..end).unwrap_or_default()
    }
}
