//! The record of one inode of a layer, stored in the scratch file until the inodes are written.

use super::error::{ErofsError, OutputError};
use super::spill::{Spill, Window};

/// Records start at multiples of this, so that 32 bits can address them.
const ALIGN: usize = 8;
const FIXED: usize = 50;

/// The kind of file of an inode or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Directory,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    /// Hides a name of lower layers; becomes an overlayfs whiteout, the character device 0/0.
    Whiteout,
    /// Another name of an inode.
    Link,
}

/// Owner, permissions, times and extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    /// Permission bits (07777).
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
    /// Encoded entries without the header, a multiple of 4 bytes.
    pub xattrs: Vec<u8>,
}

impl Attributes {
    /// Attributes of a directory without an entry.
    pub fn implied() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
}

/// A file's content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Data {
    pub size: u64,
    pub place: Place,
}

/// Where a file's content was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Uncompressed, in consecutive blocks.
    Plain {
        first_block: u32,
        /// Offset in the spill of the partial last block, if it will follow the inode.
        tail: Option<u64>,
    },
    /// In this many compressed blocks. The index, which will follow the inode, is at this offset of the spill.
    Compressed { blocks: u32, index: u64 },
}

impl Default for Place {
    fn default() -> Self {
        Self::Plain {
            first_block: 0,
            tail: None,
        }
    }
}

impl Place {
    /// The value for the inode: the first block, or the number of compressed blocks.
    pub fn block(&self) -> u32 {
        match self {
            Self::Plain { first_block, .. } => *first_block,
            Self::Compressed { blocks, .. } => *blocks,
        }
    }
}

/// An inode, or another name of one, with its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub name: Vec<u8>,
    pub attributes: Attributes,
    /// The content, for a file.
    pub data: Data,
    /// The number of a device, or the target inode of a hard link.
    pub number: u32,
    /// The target, for a symbolic link.
    pub target: Vec<u8>,
}

impl Record {
    /// Appends the record and returns its place.
    pub fn append(&self, spill: &mut Spill, buffer: &mut Vec<u8>) -> Result<u32, ErofsError> {
        let attributes = &self.attributes;
        let (compressed, spilled) = match self.data.place {
            Place::Plain { tail, .. } => (0, tail.map_or(0, |tail| tail + 1)),
            Place::Compressed { index, .. } => (1, index),
        };
        buffer.clear();
        buffer.extend([
            u8::try_from(self.name.len()).map_err(|_| ErofsError::TooManyEntries)?,
            compressed,
        ]);
        buffer.extend(attributes.mode.to_le_bytes());
        buffer.extend(attributes.uid.to_le_bytes());
        buffer.extend(attributes.gid.to_le_bytes());
        buffer.extend(attributes.mtime_seconds.to_le_bytes());
        buffer.extend(attributes.mtime_nanoseconds.to_le_bytes());
        buffer.extend((attributes.xattrs.len() as u32).to_le_bytes());
        buffer.extend(self.data.size.to_le_bytes());
        buffer.extend(spilled.to_le_bytes());
        // A file has no number.
        buffer.extend((self.data.place.block() | self.number).to_le_bytes());
        buffer.extend((self.target.len() as u16).to_le_bytes());
        debug_assert_eq!(buffer.len(), FIXED);
        buffer.extend_from_slice(&self.name);
        buffer.extend_from_slice(&attributes.xattrs);
        buffer.extend_from_slice(&self.target);
        buffer.resize(buffer.len().next_multiple_of(ALIGN), 0);
        let offset = spill.append(buffer)?;
        u32::try_from(offset / ALIGN as u64).map_err(|_| ErofsError::TooManyEntries)
    }

    pub fn read(spill: &Spill, window: &mut Window, place: u32, buffer: &mut Vec<u8>) -> Result<Self, ErofsError> {
        let fixed = Fixed::read(spill, window, place, buffer)?;
        let (name, xattrs) = (fixed.name_bytes, fixed.u32(24) as usize);
        let target = usize::from(fixed.u16(48));
        let (size, spilled, number) = (fixed.u64(28), fixed.u64(36), fixed.u32(44));
        let content = match fixed.array(1) {
            [0] => Place::Plain {
                first_block: number,
                tail: spilled.checked_sub(1),
            },
            _ => Place::Compressed {
                blocks: number,
                index: spilled,
            },
        };
        let attributes = Attributes {
            mode: fixed.u16(2),
            uid: fixed.u32(4),
            gid: fixed.u32(8),
            mtime_seconds: fixed.u64(12) as i64,
            mtime_nanoseconds: fixed.u32(20),
            xattrs: Vec::new(),
        };
        buffer.clear();
        let offset = u64::from(place) * ALIGN as u64 + FIXED as u64;
        spill.read(window, offset, name + xattrs + target, buffer)?;
        let (name, rest) = buffer.split_at_checked(name).ok_or_else(broken)?;
        let (xattrs, target) = rest.split_at_checked(xattrs).ok_or_else(broken)?;
        Ok(Self {
            name: name.to_vec(),
            attributes: Attributes {
                xattrs: xattrs.to_vec(),
                ..attributes
            },
            data: Data { size, place: content },
            number,
            target: target.to_vec(),
        })
    }

    /// Appends only the record's name to `out`; returns its length.
    pub fn read_name(spill: &Spill, window: &mut Window, place: u32, out: &mut Vec<u8>) -> Result<u8, ErofsError> {
        let offset = u64::from(place) * ALIGN as u64;
        let start = out.len();
        spill.read(window, offset, 1, out)?;
        let length = out.pop().unwrap_or_default();
        debug_assert_eq!(start, out.len());
        spill.read(window, offset + FIXED as u64, usize::from(length), out)?;
        Ok(length)
    }
}

fn broken() -> OutputError {
    OutputError(std::io::ErrorKind::InvalidData.into())
}

/// The fixed-length part of a record.
struct Fixed<'a> {
    bytes: &'a [u8],
    name_bytes: usize,
}

impl<'a> Fixed<'a> {
    fn read(spill: &Spill, window: &mut Window, place: u32, buffer: &'a mut Vec<u8>) -> Result<Fixed<'a>, ErofsError> {
        buffer.clear();
        spill.read(window, u64::from(place) * ALIGN as u64, FIXED, buffer)?;
        let name_bytes = usize::from(buffer.first().copied().unwrap_or_default());
        Ok(Fixed {
            bytes: buffer,
            name_bytes,
        })
    }

    fn array<const N: usize>(&self, offset: usize) -> [u8; N] {
        let bytes = self.bytes.get(offset..).and_then(|bytes| bytes.first_chunk());
        bytes.copied().unwrap_or([0; N])
    }

    fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    fn u32(&self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back_as_they_were_written() {
        let mut spill = Spill::new(tempfile::tempfile().unwrap());
        let (mut buffer, mut window) = (Vec::new(), Window::default());
        let file = Record {
            name: b"name\xff".to_vec(),
            attributes: Attributes {
                mode: 0o4755,
                uid: u32::MAX,
                gid: 7,
                mtime_seconds: -5,
                mtime_nanoseconds: 999_999_999,
                xattrs: vec![9; 4000],
            },
            data: Data {
                size: 1 << 40,
                place: Place::Plain {
                    first_block: 77,
                    tail: Some(0),
                },
            },
            number: 77,
            target: Vec::new(),
        };
        let compressed = Record {
            data: Data {
                size: 1 << 40,
                place: Place::Compressed { blocks: 78, index: 0 },
            },
            number: 78,
            ..Record::default()
        };
        let link = Record {
            name: vec![b'x'; 255],
            target: vec![b'y'; 4095],
            ..Record::default()
        };
        let records = [&file, &compressed, &link];
        let places = records.map(|record| record.append(&mut spill, &mut buffer).unwrap());
        for (record, place) in records.into_iter().zip(places) {
            assert_eq!(Record::read(&spill, &mut window, place, &mut buffer).unwrap(), *record);
            let mut name = b"before".to_vec();
            Record::read_name(&spill, &mut window, place, &mut name).unwrap();
            assert_eq!(name[6..], record.name);
        }
    }
}
