//! Reads images written by this crate: for layers that depend on lower ones, and to check images for damage. Files on
//! disk may be damaged, so everything is checked before it is used.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::block_hash::BlockHash;
use super::format::{
    BLOCK, BLOCK_BITS, COMPACT_INODE, DIRENT, DataLayout, EXTENDED_INODE, MAGIC, S_IFREG, SLOT, SUPER_OFFSET,
    XATTR_HEADER, crc32c,
};
use super::needs::Needs;

mod extents;

/// Maximum number of entries in a directory block.
const DIRENTS_MAX: usize = BLOCK / DIRENT;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The image is damaged.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Another version of microkube wrote the image.
    #[error("it was written by another version of microkube")]
    Version,
    /// Reading it failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

use VolumeError::Damaged;

/// An open image.
#[derive(Debug)]
pub struct Volume {
    file: File,
    length: u64,
    meta: u64,
    root: u64,
    build: (i64, u32),
    digest: [u8; 16],
    needs: Needs,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeInode {
    /// Including the file type bits.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    pub size: u64,
    /// Number of its names in its image.
    pub links: u32,
    /// Device number as encoded on disk.
    pub device: u32,
    first_block: u32,
    layout: DataLayout,
    /// Offset in the file of the data after the inode.
    xattrs_at: u64,
    xattr_bytes: usize,
}

impl VolumeInode {
    /// The file type bits of the mode.
    pub fn kind(&self) -> u16 {
        self.mode & 0o170_000
    }

    /// Its position in the image, unique to the inode.
    pub fn position(&self) -> u64 {
        self.xattrs_at
    }
}

fn array<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N], VolumeError> {
    let found = bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
    found.copied().ok_or(Damaged("a structure is truncated"))
}

fn u16_at(bytes: &[u8], offset: usize) -> Result<u16, VolumeError> {
    Ok(u16::from_le_bytes(array(bytes, offset)?))
}

fn u32_at(bytes: &[u8], offset: usize) -> Result<u32, VolumeError> {
    Ok(u32::from_le_bytes(array(bytes, offset)?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Result<u64, VolumeError> {
    Ok(u64::from_le_bytes(array(bytes, offset)?))
}

impl Volume {
    /// Opens an image and checks its superblock and length.
    pub fn open(file: File) -> Result<Self, VolumeError> {
        let length = file.metadata()?.len();
        let mut block = [0; BLOCK];
        file.read_exact_at(&mut block, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Damaged("it is too short"),
            _ => error.into(),
        })?;
        let mut sb = block.get(SUPER_OFFSET..).unwrap_or_default().to_vec();
        if u32_at(&sb, 0)? != MAGIC {
            return Err(Damaged("it has no superblock"));
        }
        let checksum = u32_at(&sb, 4)?;
        if let Some(place) = sb.get_mut(4..8) {
            place.fill(0);
        }
        if crc32c(&sb) != checksum {
            return Err(Damaged("the superblock's checksum is wrong"));
        }
        if sb.get(12) != Some(&BLOCK_BITS) || u64::from(u32_at(&sb, 36)?) * BLOCK as u64 != length {
            return Err(Damaged("its length differs from the one in its superblock"));
        }
        Ok(Self {
            file,
            length,
            meta: u64::from(u32_at(&sb, 40)?) * BLOCK as u64,
            root: u64::from(u16_at(&sb, 14)?),
            build: (u64_at(&sb, 24)? as i64, u32_at(&sb, 32)?),
            digest: array(&sb, 48)?,
            needs: Needs::decode(&array(&sb, 64)?).ok_or(VolumeError::Version)?,
        })
    }

    pub fn length_bytes(&self) -> u64 {
        self.length
    }

    /// The image's dependencies on lower layers.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// Reads the whole image and compares it with the digest in the superblock.
    pub fn verify(&self) -> Result<(), VolumeError> {
        use std::os::fd::AsFd;
        let mut hash = BlockHash::default();
        let mut buffer = vec![0; 64 * BLOCK];
        let mut at = BLOCK as u64;
        while at < self.length {
            // Holes are not read: there may be far more of them than data.
            let seek = |from: u64, whence| {
                let from = i64::try_from(from).map_err(|_| Damaged("it is too long"))?;
                match nix::unistd::lseek(self.file.as_fd(), from, whence) {
                    Ok(found) => Ok(Some(found.unsigned_abs())),
                    Err(nix::errno::Errno::ENXIO) => Ok(None),
                    Err(errno) => Err(VolumeError::Io(errno.into())),
                }
            };
            let Some(data) = seek(at, nix::unistd::Whence::SeekData)? else {
                break;
            };
            let end = seek(data, nix::unistd::Whence::SeekHole)?.unwrap_or(self.length);
            at = (data - data % BLOCK as u64).max(at);
            let end = end.next_multiple_of(BLOCK as u64).min(self.length);
            while at < end {
                let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let bytes = buffer.get_mut(..want).unwrap_or_default();
                self.file.read_exact_at(bytes, at)?;
                hash.blocks(at / BLOCK as u64, bytes);
                at += want as u64;
            }
        }
        if hash.finish() == self.digest {
            Ok(())
        } else {
            Err(Damaged("its content has changed"))
        }
    }

    pub fn root(&self) -> Result<VolumeInode, VolumeError> {
        self.inode(self.root)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, VolumeError> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.length);
        end.ok_or(Damaged("a reference points beyond its end"))?;
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The inode with this number.
    pub fn inode(&self, nid: u64) -> Result<VolumeInode, VolumeError> {
        let start = nid
            .checked_mul(SLOT as u64)
            .and_then(|offset| offset.checked_add(self.meta));
        let start = start.ok_or(Damaged("an inode is beyond its end"))?;
        let mut bytes = self.read(start, COMPACT_INODE)?;
        let format = u16_at(&bytes, 0)?;
        let layout = DataLayout::of(format).ok_or(Damaged("unknown inode type"))?;
        let xattr_bytes = match u16_at(&bytes, 2)? {
            0 => 0,
            count => XATTR_HEADER + (usize::from(count) - 1) * 4,
        };
        let mode = u16_at(&bytes, 4)?;
        let union = u32_at(&bytes, 16)?;
        let head;
        let (size, uid, gid, mtime, links);
        if format & 1 == 1 {
            bytes = self.read(start, EXTENDED_INODE)?;
            head = EXTENDED_INODE;
            (size, uid, gid) = (u64_at(&bytes, 8)?, u32_at(&bytes, 24)?, u32_at(&bytes, 28)?);
            mtime = (u64_at(&bytes, 32)? as i64, u32_at(&bytes, 40)?);
            links = u32_at(&bytes, 44)?;
        } else {
            head = COMPACT_INODE;
            size = u64::from(u32_at(&bytes, 8)?);
            (uid, gid) = (u16_at(&bytes, 24)?.into(), u16_at(&bytes, 26)?.into());
            mtime = self.build;
            links = u16_at(&bytes, 6)?.into();
        }
        if layout == DataLayout::Compressed && mode & 0o170_000 != S_IFREG {
            return Err(Damaged("an inode that is not a file is compressed"));
        }
        let is_device = matches!(mode & 0o170_000, 0o020_000 | 0o060_000);
        Ok(VolumeInode {
            mode,
            uid,
            gid,
            mtime,
            size,
            links,
            device: if is_device { union } else { 0 },
            first_block: union,
            layout,
            xattrs_at: start + head as u64,
            xattr_bytes,
        })
    }

    /// An inode's encoded extended attributes, without their header.
    pub fn xattrs(&self, inode: &VolumeInode) -> Result<Vec<u8>, VolumeError> {
        match inode.xattr_bytes.checked_sub(XATTR_HEADER) {
            None => Ok(Vec::new()),
            Some(length) => self.read(inode.xattrs_at + XATTR_HEADER as u64, length),
        }
    }

    /// Reads a part of an inode's data from `offset`, at most what fits `buffer`. Returns 0 only at the end of the
    /// data.
    pub fn read_data(&self, inode: &VolumeInode, offset: u64, buffer: &mut [u8]) -> Result<usize, VolumeError> {
        if inode.layout == DataLayout::Compressed {
            return self.read_compressed(inode, offset, buffer);
        }
        let left = inode.size.saturating_sub(offset);
        let mut want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let tail = match inode.layout {
            DataLayout::Inline => inode.size % BLOCK as u64,
            _ => 0,
        };
        let plain = inode.size - tail;
        let at = if offset >= plain {
            inode.xattrs_at + inode.xattr_bytes as u64 + (offset - plain)
        } else {
            want = want.min(usize::try_from(plain - offset).unwrap_or(usize::MAX));
            u64::from(inode.first_block) * BLOCK as u64 + offset
        };
        let end = at.checked_add(want as u64).filter(|end| *end <= self.length);
        end.ok_or(Damaged("content is beyond its end"))?;
        let place = buffer.get_mut(..want).unwrap_or_default();
        self.file.read_exact_at(place, at)?;
        Ok(want)
    }

    /// All of an inode's data; an error if there are more than `max_bytes`.
    pub fn small_data(&self, inode: &VolumeInode, max_bytes: usize) -> Result<Vec<u8>, VolumeError> {
        let size = usize::try_from(inode.size).ok().filter(|size| *size <= max_bytes);
        let mut data = vec![0; size.ok_or(Damaged("a file is too large"))?];
        let mut done = 0;
        while done < data.len() {
            match self.read_data(inode, done as u64, data.get_mut(done..).unwrap_or_default())? {
                0 => return Err(Damaged("content is truncated")),
                count => done += count,
            }
        }
        Ok(data)
    }

    /// Calls `each` with the name, inode number and type of every directory entry until it returns `false`.
    pub fn entries(
        &self,
        directory: &VolumeInode,
        mut each: impl FnMut(&[u8], u64, u8) -> bool,
    ) -> Result<(), VolumeError> {
        let mut offset = 0;
        let mut block = [0; BLOCK];
        while offset < directory.size {
            let mut have = 0;
            while have < BLOCK {
                match self.read_data(
                    directory,
                    offset + have as u64,
                    block.get_mut(have..).unwrap_or_default(),
                )? {
                    0 => break,
                    count => have += count,
                }
            }
            let bytes = block.get(..have).unwrap_or_default();
            let count = usize::from(u16_at(bytes, 8)?) / DIRENT;
            if count == 0 || count > DIRENTS_MAX {
                return Err(Damaged("a directory has an invalid number of entries"));
            }
            for index in 0..count {
                let entry = index * DIRENT;
                let start = usize::from(u16_at(bytes, entry + 8)?);
                let end = if index + 1 < count {
                    usize::from(u16_at(bytes, entry + DIRENT + 8)?)
                } else {
                    bytes.len()
                };
                let name = bytes
                    .get(start..end)
                    .ok_or(Damaged("a name in a directory is beyond its end"))?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let kind = bytes.get(entry + 10).copied().unwrap_or_default();
                if !each(name, u64_at(bytes, entry)?, kind) {
                    return Ok(());
                }
            }
            offset += BLOCK as u64;
        }
        Ok(())
    }

    /// Looks up a name in a directory.
    pub fn lookup(&self, directory: &VolumeInode, name: &[u8]) -> Result<Option<VolumeInode>, VolumeError> {
        let mut found = None;
        self.entries(directory, |other, nid, _| {
            if other == name {
                found = Some(nid);
            }
            other != name
        })?;
        found.map(|nid| self.inode(nid)).transpose()
    }
}
