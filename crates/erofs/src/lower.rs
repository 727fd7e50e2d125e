//! The merged view of the layers below a layer. It provides the attributes of directories that have no entry in the
//! layer, and the files that the layer links to. Merging several layers reads them through it.

use std::fs::File;
use std::io;
use std::rc::Rc;

use super::error::ErofsError;
use super::format::{OPAQUE_XATTR, S_IFCHR, S_IFDIR, S_IFLNK, SYMLINK_MAX_BYTES};
use super::record::Attributes;
use super::volume::{Volume, VolumeError, VolumeInode};

/// The layers below a layer.
#[derive(Debug)]
pub struct LowerLayers {
    /// Lowest first.
    volumes: Vec<(Rc<Volume>, VolumeInode)>,
}

/// A directory of the layers below: all directories of one path, stacked.
#[derive(Debug)]
pub(super) struct MergedDirectory {
    /// Topmost first.
    parts: Vec<(Rc<Volume>, VolumeInode)>,
}

/// A file in the layers below, other than a directory.
#[derive(Debug)]
pub(super) struct LowerFile {
    volume: Rc<Volume>,
    pub inode: VolumeInode,
}

/// The file or directory of a name in the layers below.
#[derive(Debug)]
pub(super) enum Found {
    Directory(MergedDirectory),
    File(LowerFile),
}

impl LowerLayers {
    /// Opens the layers in `files`, lowest first.
    pub fn open(files: Vec<File>) -> Result<Self, VolumeError> {
        let open = |file| {
            let volume = Volume::open(file)?;
            let root = volume.root()?;
            Ok((Rc::new(volume), root))
        };
        Ok(Self {
            volumes: files.into_iter().map(open).collect::<Result<_, VolumeError>>()?,
        })
    }

    pub(super) fn root(&self) -> MergedDirectory {
        MergedDirectory {
            parts: self.volumes.iter().rev().cloned().collect(),
        }
    }

    /// Looks up `name` in `directory`, as overlayfs would.
    pub(super) fn lookup(&self, directory: &MergedDirectory, name: &[u8]) -> Result<Option<Found>, ErofsError> {
        let parts = directory.parts.iter().filter_map(|(volume, inode)| {
            let found = volume.lookup(inode, name).transpose()?;
            Some(found.map(|found| (Rc::clone(volume), found)))
        });
        stacked(parts)
    }
}

/// Stacks the files with the same name, given topmost first.
fn stacked(
    files: impl Iterator<Item = Result<(Rc<Volume>, VolumeInode), VolumeError>>,
) -> Result<Option<Found>, ErofsError> {
    let mut parts = Vec::new();
    for file in files {
        let (volume, found) = file?;
        if found.kind() == S_IFDIR {
            let opaque = is_opaque(&volume.xattrs(&found)?);
            parts.push((volume, found));
            if opaque {
                break;
            }
            continue;
        }
        let is_whiteout = found.kind() == S_IFCHR && found.device == 0;
        if parts.is_empty() && !is_whiteout {
            return Ok(Some(Found::File(LowerFile { volume, inode: found })));
        }
        break;
    }
    Ok((!parts.is_empty()).then_some(Found::Directory(MergedDirectory { parts })))
}

fn is_opaque(xattrs: &[u8]) -> bool {
    // The writer puts this attribute last.
    xattrs.ends_with(OPAQUE_XATTR)
}

fn attributes(volume: &Volume, inode: &VolumeInode) -> Result<Attributes, ErofsError> {
    let mut xattrs = volume.xattrs(inode)?;
    if let Some(rest) = xattrs.strip_suffix(OPAQUE_XATTR) {
        xattrs.truncate(rest.len());
    }
    Ok(Attributes {
        mode: inode.mode & 0o7777,
        uid: inode.uid,
        gid: inode.gid,
        mtime_seconds: inode.mtime.0,
        mtime_nanoseconds: inode.mtime.1,
        xattrs,
    })
}

impl MergedDirectory {
    pub fn attributes(&self) -> Result<Attributes, ErofsError> {
        match self.parts.first() {
            Some((volume, inode)) => attributes(volume, inode),
            None => Ok(Attributes::implied()),
        }
    }

    /// All names in the directory, including those from lower layers.
    pub fn names(&self) -> Result<Names<'_>, ErofsError> {
        let mut names = Names {
            directory: self,
            text: Vec::new(),
            entries: Vec::new(),
        };
        for (part, (volume, inode)) in self.parts.iter().enumerate() {
            volume.entries(inode, |name, nid, _| {
                if !matches!(name, b"." | b"..") {
                    names.entries.push((names.text.len(), name.len(), part, nid));
                    names.text.extend_from_slice(name);
                }
                true
            })?;
        }
        let text = &names.text;
        names
            .entries
            .sort_unstable_by_key(|(start, length, part, _)| (text.get(*start..start + length), *part));
        Ok(names)
    }
}

/// The names in a stacked directory.
#[derive(Debug)]
pub(super) struct Names<'d> {
    directory: &'d MergedDirectory,
    text: Vec<u8>,
    /// Start and length of the name in the text, index of the part that has it, and inode number. Sorted by name,
    /// topmost layer first.
    entries: Vec<(usize, usize, usize, u64)>,
}

impl Names<'_> {
    /// Calls `each` with every name and its file, in name order.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], Found) -> Result<(), ErofsError>) -> Result<(), ErofsError> {
        let name_of =
            |entry: &(usize, usize, usize, u64)| self.text.get(entry.0..entry.0 + entry.1).unwrap_or_default();
        for group in self.entries.chunk_by(|a, b| name_of(a) == name_of(b)) {
            let files = group.iter().filter_map(|(_, _, part, nid)| {
                let (volume, _) = self.directory.parts.get(*part)?;
                Some(volume.inode(*nid).map(|inode| (Rc::clone(volume), inode)))
            });
            if let (Some(first), Some(found)) = (group.first(), stacked(files)?) {
                each(name_of(first), found)?;
            }
        }
        Ok(())
    }
}

impl LowerFile {
    pub fn attributes(&self) -> Result<Attributes, ErofsError> {
        attributes(&self.volume, &self.inode)
    }

    /// Equal for names of the same file.
    pub fn identity(&self) -> (*const Volume, u64) {
        (Rc::as_ptr(&self.volume), self.inode.position())
    }

    /// A symbolic link's target; `None` for other files.
    pub fn symlink_target(&self) -> Result<Option<Vec<u8>>, ErofsError> {
        if self.inode.kind() != S_IFLNK {
            return Ok(None);
        }
        Ok(Some(self.volume.small_data(&self.inode, SYMLINK_MAX_BYTES)?))
    }

    pub fn content(&self) -> impl io::Read {
        Content {
            file: self,
            position: 0,
        }
    }
}

struct Content<'a> {
    file: &'a LowerFile,
    position: u64,
}

impl io::Read for Content<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self
            .file
            .volume
            .read_data(&self.file.inode, self.position, buffer)
            .map_err(io::Error::other)?;
        self.position += count as u64;
        Ok(count)
    }
}
