//! EROFS on disk: the fields of the superblock, inodes, directory entries and extended attributes, as in the kernel's
//! `fs/erofs/erofs_fs.h` (its format definitions are also under Apache-2.0). Covers only what the writer emits:
//! 4096-byte blocks and, as the only compression, LZ4 in single blocks with the full index, one entry for every 4096
//! bytes of content.

/// Block size in bytes, including directory blocks.
pub(crate) const BLOCK: usize = 4096;
/// [`BLOCK`] as a shift.
pub(crate) const BLOCK_BITS: u8 = 12;
/// Inodes are placed and numbered in this unit.
pub(crate) const SLOT: usize = 32;
/// Offset of the superblock in the image.
pub(crate) const SUPER_OFFSET: usize = 1024;
/// `EROFS_SUPER_MAGIC_V1`.
pub(crate) const MAGIC: u32 = 0xE0F5_E1E2;
/// Size of the short inode.
pub(crate) const COMPACT_INODE: usize = 32;
/// Size of the full inode.
pub(crate) const EXTENDED_INODE: usize = 64;
/// Size of a directory entry without its name.
pub(crate) const DIRENT: usize = 12;
/// `EROFS_NAME_LEN`.
pub(crate) const NAME_MAX: usize = 255;
/// Size of the header that precedes an inode's extended attributes.
pub(crate) const XATTR_HEADER: usize = 12;
/// Size of an entry of a compressed file's index.
pub(crate) const INDEX_ENTRY: usize = 8;
/// `z_erofs_map_header` and eight reserved bytes. They precede the index, aligned to eight bytes. All zero: LZ4 in
/// single blocks, one entry for each [`BLOCK`] of content.
pub(crate) const INDEX_HEADER: usize = 16;
/// Maximum amount of content in one compressed block. LZ4 shrinks to 1/255 at best.
pub(crate) const EXTENT_MAX: usize = 1 << 20;

/// `trusted.overlay.opaque=y`: name length, index of `trusted.`, value length, name, value, padded to 4 bytes.
pub(crate) const OPAQUE_XATTR: &[u8; 20] = b"\x0e\x04\x01\x00overlay.opaquey\x00";
/// `PATH_MAX` of Linux, without the terminating NUL.
pub(crate) const SYMLINK_MAX_BYTES: usize = 4095;

pub(crate) const S_IFIFO: u16 = 0o010000;
pub(crate) const S_IFCHR: u16 = 0o020000;
pub(crate) const S_IFDIR: u16 = 0o040000;
pub(crate) const S_IFBLK: u16 = 0o060000;
pub(crate) const S_IFREG: u16 = 0o100000;
pub(crate) const S_IFLNK: u16 = 0o120000;

const FEATURE_COMPAT_SB_CHKSUM: u32 = 1;
const FEATURE_COMPAT_MTIME: u32 = 2;
/// Compressed data ends at its block's end and is preceded by zeros.
const FEATURE_INCOMPAT_ZERO_PADDING: u32 = 1;
/// How far back LZ4 refers, in bytes.
const LZ4_MAX_DISTANCE: u16 = u16::MAX;

/// How an inode's data is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DataLayout {
    /// `EROFS_INODE_FLAT_PLAIN`: in whole blocks.
    Plain = 0,
    /// `EROFS_INODE_COMPRESSED_FULL`: in blocks listed by an index after the inode.
    Compressed = 1,
    /// `EROFS_INODE_FLAT_INLINE`: the last, partial block follows the inode.
    Inline = 2,
}

impl DataLayout {
    /// Decodes an inode's `format` field; `None` for layouts that the writer does not emit.
    pub fn of(format: u16) -> Option<Self> {
        [Self::Plain, Self::Compressed, Self::Inline]
            .into_iter()
            .find(|layout| *layout as u16 == format >> 1)
    }
}

/// An entry of a compressed file's index, which describes 4096 bytes of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IndexEntry {
    /// The extent in `block`, compressed or not, begins at `offset` in these bytes.
    Head { compressed: bool, offset: u16, block: u32 },
    /// No extent begins here. The current one began `back` entries before; the next begins `ahead` entries later.
    Inner { back: u16, ahead: u16 },
}

impl IndexEntry {
    const PLAIN: u16 = 0;
    const COMPRESSED: u16 = 1;
    const INNER: u16 = 2;

    pub fn encode(self) -> [u8; INDEX_ENTRY] {
        let (kind, offset, [low, high]) = match self {
            Self::Head {
                compressed,
                offset,
                block,
            } => {
                let kind = if compressed { Self::COMPRESSED } else { Self::PLAIN };
                let [a, b, c, d] = block.to_le_bytes();
                (kind, offset, [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])])
            }
            Self::Inner { back, ahead } => (Self::INNER, 0, [back, ahead]),
        };
        let mut bytes = [0; INDEX_ENTRY];
        for (place, value) in bytes.chunks_exact_mut(2).zip([kind, offset, low, high]) {
            place.copy_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    /// `None` for kinds that the writer does not emit.
    pub fn decode(bytes: [u8; INDEX_ENTRY]) -> Option<Self> {
        let [k0, k1, o0, o1, a, b, c, d] = bytes;
        match u16::from_le_bytes([k0, k1]) {
            Self::INNER => Some(Self::Inner {
                back: u16::from_le_bytes([a, b]),
                ahead: u16::from_le_bytes([c, d]),
            }),
            kind @ (Self::PLAIN | Self::COMPRESSED) => Some(Self::Head {
                compressed: kind == Self::COMPRESSED,
                offset: u16::from_le_bytes([o0, o1]),
                block: u32::from_le_bytes([a, b, c, d]),
            }),
            _ => None,
        }
    }
}

/// The values of the superblock that differ between images.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SuperBlock {
    pub root_nid: u16,
    pub inodes: u64,
    pub build_seconds: i64,
    pub build_nanoseconds: u32,
    pub blocks: u32,
    pub meta_block: u32,
    /// Digest of everything after the superblock's block, so that a file can be checked by itself.
    pub uuid: [u8; 16],
    /// Text of at most 15 bytes.
    pub volume_name: [u8; 16],
    /// Whether files are compressed.
    pub compressed: bool,
}

impl SuperBlock {
    /// The image's first block, with the checksum.
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |offset: usize, bytes: &[u8]| {
            let start = SUPER_OFFSET + offset;
            block[start..start + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &(FEATURE_COMPAT_SB_CHKSUM | FEATURE_COMPAT_MTIME).to_le_bytes());
        put(12, &[BLOCK_BITS]);
        put(14, &self.root_nid.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(24, &self.build_seconds.to_le_bytes());
        put(32, &self.build_nanoseconds.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.meta_block.to_le_bytes());
        put(48, &self.uuid);
        put(64, &self.volume_name);
        if self.compressed {
            put(80, &FEATURE_INCOMPAT_ZERO_PADDING.to_le_bytes());
            put(84, &LZ4_MAX_DISTANCE.to_le_bytes());
        }
        // The kernel computes the checksum from the superblock to the end of its block, with the checksum field zero.
        let checksum = crc32c(&block[SUPER_OFFSET..]);
        block[SUPER_OFFSET + 4..SUPER_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// The fields of an inode, independent of its form on disk (short or full).
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawInode {
    pub extended: bool,
    pub layout: DataLayout,
    pub xattr_bytes: usize,
    pub mode: u16,
    pub links: u32,
    pub size: u64,
    /// First block of the data, number of blocks of compressed data, or device number.
    pub block_or_device: u32,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime_seconds: i64,
    pub mtime_nanoseconds: u32,
}

impl RawInode {
    /// Appends the inode to `out`. The values must fit its form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let format = u16::from(self.extended) | (self.layout as u16) << 1;
        out.extend(format.to_le_bytes());
        out.extend(xattr_count(self.xattr_bytes).to_le_bytes());
        out.extend(self.mode.to_le_bytes());
        if self.extended {
            out.extend([0; 2]);
            out.extend(self.size.to_le_bytes());
            out.extend(self.block_or_device.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend(self.uid.to_le_bytes());
            out.extend(self.gid.to_le_bytes());
            out.extend(self.mtime_seconds.to_le_bytes());
            out.extend(self.mtime_nanoseconds.to_le_bytes());
            out.extend(self.links.to_le_bytes());
            out.extend([0; 16]);
        } else {
            out.extend((self.links as u16).to_le_bytes());
            out.extend((self.size as u32).to_le_bytes());
            out.extend([0; 4]);
            out.extend(self.block_or_device.to_le_bytes());
            out.extend(self.number.to_le_bytes());
            out.extend((self.uid as u16).to_le_bytes());
            out.extend((self.gid as u16).to_le_bytes());
            out.extend([0; 4]);
        }
    }
}

/// `i_xattr_icount` for `bytes` of extended attributes including their header (a multiple of 4, or 0).
fn xattr_count(bytes: usize) -> u16 {
    if bytes == 0 {
        0
    } else {
        (1 + (bytes - XATTR_HEADER) / 4) as u16
    }
}

/// Splits a full attribute name into EROFS's name index and the rest; `None` for namespaces without an index in EROFS.
pub(crate) fn xattr_index(name: &[u8]) -> Option<(u8, &[u8])> {
    match name {
        b"system.posix_acl_access" => return Some((2, b"")),
        b"system.posix_acl_default" => return Some((3, b"")),
        _ => {}
    }
    [(1, b"user.".as_slice()), (4, b"trusted."), (6, b"security.")]
        .into_iter()
        .find_map(|(index, prefix)| {
            name.strip_prefix(prefix)
                .filter(|rest| !rest.is_empty())
                .map(|rest| (index, rest))
        })
}

/// `new_encode_dev` of the kernel; `None` if the major or minor number is too large for it.
pub(crate) fn device_number(major: u32, minor: u32) -> Option<u32> {
    (major < 1 << 12 && minor < 1 << 20).then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

/// CRC-32C without the final inversion, as the kernel's `crc32c(~0, …)`.
pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                (crc >> 1) ^ 0x82F6_3B78
            } else {
                crc >> 1
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_matches_the_published_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn index_entries_are_read_as_they_were_written() {
        let head = |compressed| IndexEntry::Head {
            compressed,
            offset: 4095,
            block: 0x0102_0304,
        };
        let inner = IndexEntry::Inner { back: 258, ahead: 3 };
        for entry in [head(false), head(true), inner] {
            assert_eq!(IndexEntry::decode(entry.encode()), Some(entry));
        }
        assert_eq!(head(true).encode(), [1, 0, 0xff, 0x0f, 4, 3, 2, 1]);
        assert_eq!(inner.encode(), [2, 0, 0, 0, 2, 1, 3, 0]);
        assert_eq!(IndexEntry::decode([3, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    #[test]
    fn device_numbers_encode_as_the_kernel_does() {
        assert_eq!(device_number(0, 0), Some(0));
        assert_eq!(device_number(5, 1), Some(0x501));
        assert_eq!(device_number(259, 0x12345), Some(0x1231_0345));
        assert_eq!(device_number(4096, 0), None);
    }
}
