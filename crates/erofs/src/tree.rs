//! The tree of a layer while its stream is read. Paths are confined here, and later entries replace earlier ones as they do
//! when Docker or containerd unpack a layer.
//!
//! In memory an entry takes about 25 bytes, whatever its name and attributes: those lie in a scratch file. A table finds an entry
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
/// The root directory's.
pub(super) const ROOT: InodeId = 0;
/// As the kernel's `MAXSYMLINKS`.
const SYMLINKS_MAX: usize = 40;
/// As the kernel's, without the terminating NUL.
const PATH_MAX: usize = 4095;

/// What is to be put into the tree.
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

/// What became of a hard link.
#[derive(Debug)]
pub(super) enum Linked {
    Done,
    /// Its target is a file of a lower layer, which has to be copied into this one first.
    Lower(LowerFile),
    /// Its target is not in this layer, and the lower ones are not known.
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

/// Something else has the entry's name now.
const REPLACED: u8 = 1;
/// A directory that hides what lower layers have at its place.
const OPAQUE: u8 = 2;
/// A directory without an entry of its own, and what lower layers have in its place is not known.
const IMPLIED: u8 = 4;

/// The tree; inode 0 is the root.
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
    /// The last path's directory part, as written, and what it led to.
    last_parent: Option<(Vec<u8>, InodeId)>,
    unknown_links: bool,
}

/// A directory on a walk: in this layer, and what lower layers have at its place and this one lets through.
#[derive(Debug, Clone)]
struct Step {
    id: Option<InodeId>,
    lower: Option<Rc<MergedDirectory>>,
}

impl<'l> Tree<'l> {
    /// A tree of at most `files_max` entries that keeps its names in `scratch`. `lower` are the layers below; without them, what
    /// depends on them is only noted ([`Tree::needs`]).
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

    /// What has to be known of lower layers for the image to be right.
    pub fn needs(&self) -> Needs {
        Needs {
            directories: self.nodes.iter().any(|node| node.flags & IMPLIED != 0),
            links: self.unknown_links,
        }
    }

    /// How many entries there are, replaced ones included.
    pub fn len(&self) -> InodeId {
        // No more than `files_max`.
        self.nodes.len() as InodeId
    }

    /// Frees what only adding entries needs.
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

    /// Appends the name of an entry to `out` and returns its length.
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

    /// Puts a file at `path`; parents that have no entry of their own are made.
    pub fn insert(&mut self, path: &[u8], attributes: Attributes, content: Content<'_>) -> Result<(), ErofsError> {
        let Some((parent, name)) = self.parent_of(path)? else {
            // The root itself: only its attributes can be given.
            if content != Content::Directory {
                return Err(ErofsError::entry(
                    path,
                    "the root is a directory and cannot be replaced by another file",
                ));
            }
            let root = Record {
                attributes,
                ..Record::default()
            };
            return self.replace_record(ROOT, &root);
        };
        self.insert_at(parent, name, attributes, content, 0).map(|_| ())
    }

    /// Gives a directory other attributes.
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
                    // What was there hid the lower layers' directory, and so does what replaces it.
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

    /// Adds an entry under the record's name, in the place of `existing`.
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
                    // Links to it may keep the inode.
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
                format!("is a hard link to {target}, which is no file of this layer or one below it"),
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

    /// Applies a whiteout entry of the OCI layer specification; `false` if `path` is none.
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
        // Other names of this form are aufs' own bookkeeping; Docker skips them too.
        if hidden.starts_with(b".wh.") {
            return Ok(true);
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(ErofsError::entry(path, "is a whiteout that names no file"));
        }
        match self.child(parent, hidden)? {
            // A whiteout acts on lower layers only: what this layer has at the name stays, and merges with nothing.
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

    /// The directory and name that `path` means, the directory made where it is missing; `None` for the root.
    fn parent_of<'a>(&mut self, path: &'a [u8]) -> Result<Option<(InodeId, &'a [u8])>, ErofsError> {
        let Some((directories, name)) = components(path)? else {
            return Ok(None);
        };
        // Entries of one directory mostly follow each other.
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

    /// The directory at `components`; where it is missing it is made if `create` says so. Symbolic links are followed, within
    /// the root.
    fn walk(&mut self, path: &[u8], components: &[&[u8]], create: bool) -> Result<Option<Step>, ErofsError> {
        let mut left: Vec<Rc<[u8]>> = components.iter().rev().map(|name| Rc::from(*name)).collect();
        let root = Step {
            id: Some(ROOT),
            lower: self.lower.map(|lower| Rc::new(lower.root())),
        };
        // The directories passed, for `..` in symbolic links.
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
                    // With the lower layers known, it is known that they have no directory here.
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
                        format!("lies below {name}, which is no directory"),
                    ));
                }
            };
            followed += 1;
            if followed > SYMLINKS_MAX {
                return Err(ErofsError::entry(path, "leads through too many symbolic links"));
            }
            if target.starts_with(b"/") {
                passed.truncate(1);
            }
            let names = target.split(|byte| *byte == b'/').rev();
            for name in names.filter(|name| !matches!(*name, b"" | b".")) {
                if name.len() > NAME_MAX {
                    return Err(ErofsError::entry(
                        path,
                        "leads through a symbolic link that cannot be followed",
                    ));
                }
                left.push(Rc::from(name));
            }
        }
        Ok(passed.pop())
    }
}

/// The part of a hash that an entry keeps, as the table takes it: the table looks at the first and the last bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// The directories and the name in a path; `None` for the root.
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
