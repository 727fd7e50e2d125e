//! The tree of a layer while its stream is read. It confines paths to the root. Later entries replace earlier ones, as
//! when Docker or containerd unpacks a layer.
//!
//! An entry takes about 25 bytes of memory; its name and attributes are in a scratch file. A hash table finds an entry
//! by its directory and name.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;

use hashbrown::HashTable;

use super::error::ErofsError;
use super::format::NAME_MAX;
use super::lower::{Found, LowerFile, LowerLayers, MergedDirectory};
use super::needs::Needs;
use super::record::{Attributes, Data, Record, Type};
use super::spill::{Spill, Window};

/// Index of an inode in [`Tree`].
pub(super) type InodeId = u32;
/// The root directory's inode.
pub(super) const ROOT: InodeId = 0;
/// The kernel's `MAXSYMLINKS`.
const SYMLINKS_MAX: usize = 40;
/// The kernel's `PATH_MAX`, without the terminating NUL.
const PATH_MAX: usize = 4095;

/// The content of a new entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content<'a> {
    Directory,
    File(Data),
    Symlink(&'a [u8]),
    CharDevice(u32),
    BlockDevice(u32),
    Fifo,
    Whiteout,
}

/// The result of adding a hard link.
#[derive(Debug)]
pub(super) enum Linked {
    Done,
    /// The target is a file of a lower layer, which has to be copied into this one first.
    Lower(LowerFile),
    /// The target is not in this layer, and the lower layers are not known.
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: InodeId,
    record: u32,
    hash: u32,
    kind: Type,
    flags: u8,
}

/// Another entry has taken this entry's name.
const REPLACED: u8 = 1;
/// A directory that hides the lower layers' directory in its place.
const OPAQUE: u8 = 2;
/// A directory without an entry, whose counterpart in the lower layers is not known.
const IMPLIED: u8 = 4;

#[derive(Debug)]
pub(super) struct Tree<'l> {
    nodes: Vec<Node>,
    index: HashTable<InodeId>,
    hasher: RandomState,
    records: Spill,
    window: Window,
    buffer: Vec<u8>,
    files_max: u32,
    lower: Option<&'l LowerLayers>,
    /// The last path's directory part as written, and the directory it resolved to.
    last_parent: Option<(Vec<u8>, InodeId)>,
    unknown_links: bool,
}

/// A directory on a walk: in this layer, and the visible directory of the lower layers in its place.
#[derive(Debug, Clone)]
struct Step {
    id: Option<InodeId>,
    lower: Option<Rc<MergedDirectory>>,
}

impl<'l> Tree<'l> {
    /// A tree of at most `files_max` entries, with its names in `scratch`. `lower` are the layers below. Without them,
    /// dependencies on them are only recorded ([`Tree::needs`]).
    pub fn new(files_max: u32, scratch: File, lower: Option<&'l LowerLayers>) -> Result<Self, ErofsError> {
        let mut tree = Self {
            nodes: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            records: Spill::new(scratch),
            window: Window::default(),
            buffer: Vec::new(),
            files_max,
            lower,
            last_parent: None,
            unknown_links: false,
        };
        let root = Record {
            attributes: Attributes::implied(),
            ..Record::default()
        };
        tree.push(ROOT, 0, Type::Directory, 0, &root)?;
        Ok(tree)
    }

    /// The image's dependencies on lower layers.
    pub fn needs(&self) -> Needs {
        Needs {
            directories: self.nodes.iter().any(|node| node.flags & IMPLIED != 0),
            links: self.unknown_links,
        }
    }

    /// Number of entries, including replaced ones.
    pub fn len(&self) -> InodeId {
        // At most `files_max`.
        self.nodes.len() as InodeId
    }

    /// Frees the memory that is only needed to add entries.
    pub fn freeze(&mut self) {
        self.index = HashTable::new();
        self.nodes.shrink_to_fit();
    }

    pub fn kind(&self, id: InodeId) -> Option<Type> {
        self.nodes.get(id as usize).map(|node| node.kind)
    }

    pub fn parent(&self, id: InodeId) -> InodeId {
        self.nodes.get(id as usize).map_or(ROOT, |node| node.parent)
    }

    pub fn is_replaced(&self, id: InodeId) -> bool {
        self.nodes
            .get(id as usize)
            .is_none_or(|node| node.flags & REPLACED != 0)
    }

    pub fn is_opaque(&self, id: InodeId) -> bool {
        self.nodes.get(id as usize).is_some_and(|node| node.flags & OPAQUE != 0)
    }

    pub fn record(&self, id: InodeId, window: &mut Window, buffer: &mut Vec<u8>) -> Result<Record, ErofsError> {
        Record::read(&self.records, window, self.place_of(id), buffer)
    }

    /// Appends an entry's name to `out` and returns its length.
    pub fn name(&self, id: InodeId, window: &mut Window, out: &mut Vec<u8>) -> Result<u8, ErofsError> {
        Record::read_name(&self.records, window, self.place_of(id), out)
    }

    fn place_of(&self, id: InodeId) -> u32 {
        self.nodes.get(id as usize).map_or(0, |node| node.record)
    }

    fn own_record(&mut self, id: InodeId) -> Result<Record, ErofsError> {
        let place = self.place_of(id);
        Record::read(&self.records, &mut self.window, place, &mut self.buffer)
    }

    fn child(&mut self, parent: InodeId, name: &[u8]) -> Result<Option<InodeId>, ErofsError> {
        let hash = self.hash(parent, name);
        let (nodes, records, window, buffer) = (&self.nodes, &self.records, &mut self.window, &mut self.buffer);
        let mut failure = None;
        let found = self.index.find(spread(hash), |id| {
            let Some(node) = nodes.get(*id as usize) else {
                return false;
            };
            if node.hash != hash || node.parent != parent {
                return false;
            }
            buffer.clear();
            match Record::read_name(records, window, node.record, buffer) {
                Ok(_) => buffer == name,
                Err(error) => {
                    failure = Some(error);
                    true
                }
            }
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(found.copied()),
        }
    }

    fn hash(&self, parent: InodeId, name: &[u8]) -> u32 {
        self.hasher.hash_one((parent, name)) as u32
    }

    fn push(
        &mut self,
        parent: InodeId,
        hash: u32,
        kind: Type,
        flags: u8,
        record: &Record,
    ) -> Result<InodeId, ErofsError> {
        let id = self.len();
        if id > self.files_max {
            return Err(ErofsError::TooManyFiles { limit: self.files_max });
        }
        let record = record.append(&mut self.records, &mut self.buffer)?;
        self.nodes.push(Node {
            parent,
            record,
            hash,
            kind,
            flags,
        });
        Ok(id)
    }

    /// Puts a file at `path`. Missing parent directories are created.
    pub fn insert(&mut self, path: &[u8], attributes: Attributes, content: Content<'_>) -> Result<(), ErofsError> {
        let Some((parent, name)) = self.parent_of(path)? else {
            // The root itself: only its attributes can change.
            if content != Content::Directory {
                return Err(ErofsError::entry(path, "is the root, which must remain a directory"));
            }
            let root = Record {
                attributes,
                ..Record::default()
            };
            return self.replace_record(ROOT, &root);
        };
        self.insert_at(parent, name, attributes, content, 0).map(|_| ())
    }

    /// Changes a directory's attributes.
    fn replace_record(&mut self, id: InodeId, record: &Record) -> Result<(), ErofsError> {
        let place = record.append(&mut self.records, &mut self.buffer)?;
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.record = place;
            node.flags &= !IMPLIED;
        }
        Ok(())
    }

    /// Puts a file into a directory.
    pub fn insert_at(
        &mut self,
        parent: InodeId,
        name: &[u8],
        attributes: Attributes,
        content: Content<'_>,
        mut flags: u8,
    ) -> Result<InodeId, ErofsError> {
        let existing = self.child(parent, name)?;
        let mut record = Record {
            name: name.to_vec(),
            attributes,
            ..Record::default()
        };
        let kind = match content {
            Content::Directory => {
                match existing.and_then(|id| self.kind(id)) {
                    Some(Type::Directory) => {
                        let id = existing.unwrap_or(ROOT);
                        self.replace_record(id, &record)?;
                        return Ok(id);
                    }
                    // The previous entry hid the lower layers' directory, and so must its replacement.
                    Some(_) => flags |= OPAQUE,
                    None => {}
                }
                Type::Directory
            }
            Content::File(data) => {
                record.data = data;
                record.number = data.place.block();
                Type::File
            }
            Content::Symlink(target) => {
                record.target = target.to_vec();
                Type::Symlink
            }
            Content::CharDevice(number) => {
                record.number = number;
                Type::CharDevice
            }
            Content::BlockDevice(number) => {
                record.number = number;
                Type::BlockDevice
            }
            Content::Fifo => Type::Fifo,
            Content::Whiteout => Type::Whiteout,
        };
        self.add(parent, existing, kind, flags, &record)
    }

    /// Adds an entry under the record's name, replacing `existing`.
    fn add(
        &mut self,
        parent: InodeId,
        existing: Option<InodeId>,
        kind: Type,
        flags: u8,
        record: &Record,
    ) -> Result<InodeId, ErofsError> {
        let hash = self.hash(parent, &record.name);
        let id = self.push(parent, hash, kind, flags, record)?;
        let nodes = &mut self.nodes;
        match existing {
            Some(old) => {
                self.last_parent = None;
                if let Some(node) = nodes.get_mut(old as usize) {
                    // Hard links may still refer to the inode.
                    node.flags = (node.flags | REPLACED) & !IMPLIED;
                }
                if let Some(slot) = self.index.find_mut(spread(hash), |other| *other == old) {
                    *slot = id;
                }
            }
            None => {
                let hash_of = |id: &InodeId| spread(nodes.get(*id as usize).map_or(0, |node| node.hash));
                self.index.insert_unique(spread(hash), id, hash_of);
            }
        }
        Ok(id)
    }

    /// Makes `path` another name of the file at `target`.
    pub fn insert_hard_link(&mut self, path: &[u8], target: &[u8]) -> Result<Linked, ErofsError> {
        let missing = || {
            let target = target.escape_ascii();
            ErofsError::entry(
                path,
                format!("is a hard link to {target}, which does not exist in this layer or one below it"),
            )
        };
        let (directories, name) = components(target)?.ok_or_else(missing)?;
        let step = self.walk(target, &directories, false)?;
        let existing = match step.as_ref().and_then(|step| step.id) {
            Some(directory) => self.child(directory, name)?,
            None => None,
        };
        let Some(mut id) = existing else {
            let Some(layers) = self.lower else {
                self.unknown_links = true;
                return Ok(Linked::Unknown);
            };
            let lower = step.and_then(|step| step.lower);
            return match lower
                .map(|directory| layers.lookup(&directory, name))
                .transpose()?
                .flatten()
            {
                Some(Found::File(file)) => Ok(Linked::Lower(file)),
                _ => Err(missing()),
            };
        };
        match self.kind(id) {
            None | Some(Type::Directory | Type::Whiteout) => return Err(missing()),
            Some(Type::Link) => id = self.own_record(id)?.number,
            Some(_) => {}
        }
        let Some((parent, name)) = self.parent_of(path)? else {
            return Err(ErofsError::entry(path, "the root cannot be a hard link"));
        };
        self.link_at(parent, name, id)?;
        Ok(Linked::Done)
    }

    /// Gives an inode another name.
    pub fn link_at(&mut self, parent: InodeId, name: &[u8], id: InodeId) -> Result<(), ErofsError> {
        let existing = self.child(parent, name)?;
        let record = Record {
            name: name.to_vec(),
            number: id,
            ..Record::default()
        };
        self.add(parent, existing, Type::Link, 0, &record).map(|_| ())
    }

    /// Applies a whiteout entry of the OCI layer specification; `false` if `path` is not a whiteout.
    pub fn whiteout(&mut self, path: &[u8], attributes: &Attributes) -> Result<bool, ErofsError> {
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let trimmed = path.get(..end).unwrap_or_default();
        let name = trimmed.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        let Some(hidden) = name.strip_prefix(b".wh.") else {
            return Ok(false);
        };
        let Some((parent, _)) = self.parent_of(path)? else {
            return Ok(false);
        };
        if hidden == b".wh..opq" {
            self.make_opaque(parent);
            return Ok(true);
        }
        // Other names of this form are aufs metadata; Docker skips them too.
        if hidden.starts_with(b".wh.") {
            return Ok(true);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ErofsError::entry(path, "is a whiteout without a file name"));
        }
        match self.child(parent, hidden)? {
            // A whiteout acts only on lower layers: this layer's entry with that name stays, but is not merged with
            // theirs.
            Some(id) => {
                if self.kind(id) == Some(Type::Directory) {
                    self.make_opaque(id);
                }
            }
            None => {
                let attributes = Attributes {
                    mode: 0,
                    xattrs: Vec::new(),
                    ..attributes.clone()
                };
                self.insert_at(parent, hidden, attributes, Content::Whiteout, 0)?;
            }
        }
        Ok(true)
    }

    fn make_opaque(&mut self, id: InodeId) {
        if let Some(node) = self.nodes.get_mut(id as usize) {
            node.flags |= OPAQUE;
        }
    }

    /// Resolves `path` to a directory, created if missing, and a name; `None` for the root.
    fn parent_of<'a>(&mut self, path: &'a [u8]) -> Result<Option<(InodeId, &'a [u8])>, ErofsError> {
        let Some((directories, name)) = components(path)? else {
            return Ok(None);
        };
        // Entries of one directory mostly follow one another.
        let written = path.get(..path.len() - name.len()).filter(|_| path.ends_with(name));
        if let (Some(written), Some((last, id))) = (written, &self.last_parent)
            && written == last
        {
            return Ok(Some((*id, name)));
        }
        let step = self.walk(path, &directories, true)?;
        let id = step.and_then(|step| step.id).unwrap_or(ROOT);
        self.last_parent = written.map(|written| (written.to_vec(), id));
        Ok(Some((id, name)))
    }

    /// The directory at `components`, created if missing and `create` is set. Symbolic links are followed within the
    /// root.
    fn walk(&mut self, path: &[u8], components: &[&[u8]], create: bool) -> Result<Option<Step>, ErofsError> {
        let mut left: Vec<Rc<[u8]>> = components.iter().rev().map(|name| Rc::from(*name)).collect();
        let root = Step {
            id: Some(ROOT),
            lower: self.lower.map(|lower| Rc::new(lower.root())),
        };
        // The directories passed so far, for `..` in symbolic links.
        let mut passed = vec![root];
        let mut followed = 0;
        while let Some(name) = left.pop() {
            let Some(here) = passed.last().cloned() else { break };
            if *name == *b".." {
                if passed.len() > 1 {
                    passed.pop();
                }
                continue;
            }
            let child = match here.id {
                Some(id) => self.child(id, &name)?,
                None => None,
            };
            let child = match child {
                Some(id) if self.kind(id) == Some(Type::Link) => Some(self.own_record(id)?.number),
                other => other,
            };
            let kind = child.and_then(|id| self.kind(id));
            let below = match (self.lower, &here.lower, kind) {
                (Some(layers), Some(lower), None | Some(Type::Directory)) => layers.lookup(lower, &name)?,
                _ => None,
            };
            let target = match (kind, below) {
                (Some(Type::Directory), below) => {
                    let opaque = child.is_some_and(|id| self.is_opaque(id));
                    let lower = match below {
                        Some(Found::Directory(merged)) if !opaque => Some(Rc::new(merged)),
                        _ => None,
                    };
                    passed.push(Step { id: child, lower });
                    continue;
                }
                (None, Some(Found::Directory(merged))) => {
                    let id = match here.id {
                        Some(parent) if create => {
                            let attributes = merged.attributes()?;
                            Some(self.insert_at(parent, &name, attributes, Content::Directory, 0)?)
                        }
                        _ => None,
                    };
                    let lower = Some(Rc::new(merged));
                    passed.push(Step { id, lower });
                    continue;
                }
                (None, Some(Found::File(file))) if file.symlink_target()?.is_some() => {
                    file.symlink_target()?.unwrap_or_default()
                }
                (None | Some(Type::Whiteout), _) => {
                    let Some(parent) = here.id.filter(|_| create) else {
                        return Ok(None);
                    };
                    // If the lower layers are known, they have no directory here.
                    let flags = if self.lower.is_none() && kind.is_none() {
                        IMPLIED
                    } else {
                        0
                    };
                    let id = self.insert_at(parent, &name, Attributes::implied(), Content::Directory, flags)?;
                    passed.push(Step {
                        id: Some(id),
                        lower: None,
                    });
                    continue;
                }
                (Some(Type::Symlink), _) => self.own_record(child.unwrap_or(ROOT))?.target,
                _ if !create => return Ok(None),
                _ => {
                    let name = name.escape_ascii();
                    return Err(ErofsError::entry(
                        path,
                        format!("is below {name}, which is not a directory"),
                    ));
                }
            };
            followed += 1;
            if followed > SYMLINKS_MAX {
                return Err(ErofsError::entry(path, "has too many symbolic links in its path"));
            }
            if target.starts_with(b"/") {
                passed.truncate(1);
            }
            let names = target.split(|byte| *byte == b'/').rev();
            for name in names.filter(|name| !matches!(*name, b"" | b".")) {
                if name.len() > NAME_MAX {
                    return Err(ErofsError::entry(
                        path,
                        "has a symbolic link in its path that cannot be followed",
                    ));
                }
                left.push(Rc::from(name));
            }
        }
        Ok(passed.pop())
    }
}

/// Spreads the stored part of a hash over the bits that the table uses, the first and the last.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Splits a path into its directories and its name; `None` for the root.
#[allow(clippy::type_complexity)]
fn components(path: &[u8]) -> Result<Option<(Vec<&[u8]>, &[u8])>, ErofsError> {
    if path.len() > PATH_MAX {
        return Err(ErofsError::entry(
            path.get(..100).unwrap_or_default(),
            format!("has a path of more than {PATH_MAX} bytes, which Linux cannot open"),
        ));
    }
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
    Ok(components.pop().map(|name| (components, name)))
}
