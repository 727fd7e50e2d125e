//! Reads compressed files: finds the block that holds a part of the content in the file's index, and unpacks that
//! block.

use std::os::unix::fs::FileExt;

use lzzzz::lz4;

use super::super::format::{BLOCK, EXTENT_MAX, INDEX_ENTRY, INDEX_HEADER, IndexEntry};
use super::{Damaged, Volume, VolumeError, VolumeInode};

/// Maximum number of index entries that an extent spans beyond its first.
const REACH: u64 = (EXTENT_MAX / BLOCK) as u64 + 1;

/// A part of a file stored in one block.
#[derive(Debug, Clone, Copy)]
struct Extent {
    start: u64,
    end: u64,
    compressed: bool,
    block: u32,
}

impl Volume {
    /// Reads from `offset`: at least one byte, unless the file ends there or `buffer` is empty.
    pub(super) fn read_compressed(
        &self,
        inode: &VolumeInode,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<usize, VolumeError> {
        let mut done = 0;
        while done < buffer.len() && offset + (done as u64) < inode.size {
            let at = offset + done as u64;
            let extent = self.extent(inode, at)?;
            let room = buffer.get_mut(done..).unwrap_or_default();
            // At most EXTENT_MAX, which was checked.
            let (before, length) = ((at - extent.start) as usize, (extent.end - extent.start) as usize);
            if before == 0 && length <= room.len() {
                self.unpack(&extent, room.get_mut(..length).unwrap_or_default())?;
                done += length;
                continue;
            }
            if done > 0 {
                // Leave the rest to the next call, which then need not unpack the start of this extent again.
                break;
            }
            let want = room.len().min(length - before);
            let mut bytes = vec![0; before + want];
            self.unpack(&extent, &mut bytes)?;
            for (place, byte) in room.iter_mut().zip(bytes.iter().skip(before)) {
                *place = *byte;
            }
            return Ok(want);
        }
        Ok(done)
    }

    /// The extent that contains the byte at `at`, which is within the file.
    fn extent(&self, inode: &VolumeInode, at: u64) -> Result<Extent, VolumeError> {
        let number = at / BLOCK as u64;
        let first = number.saturating_sub(1);
        let around = self.index(inode, first, 2)?;
        let mut entries = around.iter().skip((number - first) as usize);
        let own = *entries.next().ok_or(Damaged("an index is truncated"))?;
        let head = match own {
            IndexEntry::Head { offset, .. } if u64::from(offset) <= at % BLOCK as u64 => number,
            // The extent began earlier. If it did not begin in the previous entry, that entry records where.
            IndexEntry::Head { .. } => match around.first() {
                _ if number == 0 => return Err(Damaged("the start of a file is missing in its index")),
                Some(IndexEntry::Inner { back, .. }) => back_from(first, *back)?,
                _ => first,
            },
            IndexEntry::Inner { back, .. } => back_from(number, back)?,
        };
        let entries = self.index(inode, head, REACH + 1)?;
        let Some(IndexEntry::Head {
            compressed,
            offset,
            block,
        }) = entries.first().copied()
        else {
            return Err(Damaged("an index entry points to nothing"));
        };
        let mut end = inode.size;
        for (number, entry) in (head + 1..).zip(entries.iter().skip(1)) {
            if let IndexEntry::Head { offset, .. } = entry {
                end = end.min(number * BLOCK as u64 + u64::from(*offset));
                break;
            }
        }
        let extent = Extent {
            start: head * BLOCK as u64 + u64::from(offset),
            end,
            compressed,
            block,
        };
        let max = if compressed { EXTENT_MAX } else { BLOCK };
        let length = extent.end.checked_sub(extent.start);
        if length.is_none_or(|length| length > max as u64) || !(extent.start..extent.end).contains(&at) {
            return Err(Damaged("an index is inconsistent"));
        }
        Ok(extent)
    }

    /// `count` entries of a file's index from `first`, or fewer at its end.
    fn index(&self, inode: &VolumeInode, first: u64, count: u64) -> Result<Vec<IndexEntry>, VolumeError> {
        let count = inode.size.div_ceil(BLOCK as u64).saturating_sub(first).min(count);
        let start = (inode.xattrs_at + inode.xattr_bytes as u64).next_multiple_of(INDEX_ENTRY as u64);
        let bytes = self.read(
            start + INDEX_HEADER as u64 + first * INDEX_ENTRY as u64,
            count as usize * INDEX_ENTRY,
        )?;
        let (entries, _) = bytes.as_chunks();
        let decode = |entry: &[u8; INDEX_ENTRY]| IndexEntry::decode(*entry).ok_or(Damaged("unknown index type"));
        entries.iter().map(decode).collect()
    }

    /// Fills `out` with the first bytes of an extent's content.
    fn unpack(&self, extent: &Extent, out: &mut [u8]) -> Result<(), VolumeError> {
        let mut block = [0; BLOCK];
        let at = u64::from(extent.block) * BLOCK as u64;
        if at + BLOCK as u64 > self.length {
            return Err(Damaged("content is beyond its end"));
        }
        self.file.read_exact_at(&mut block, at)?;
        if !extent.compressed {
            let plain = block.get(..out.len()).ok_or(Damaged("an index is inconsistent"))?;
            out.copy_from_slice(plain);
            return Ok(());
        }
        let padding = block.iter().take_while(|byte| **byte == 0).count();
        let packed = block.get(padding..).unwrap_or_default();
        let whole = out.len() as u64 == extent.end - extent.start;
        let unpacked = if whole {
            lz4::decompress(packed, out)
        } else {
            lz4::decompress_partial(packed, out, out.len())
        };
        match unpacked {
            Ok(length) if length == out.len() => Ok(()),
            _ => Err(Damaged("cannot decompress content")),
        }
    }
}

/// The number of the entry `back` entries before `number`.
fn back_from(number: u64, back: u16) -> Result<u64, VolumeError> {
    let head = number.checked_sub(u64::from(back));
    head.filter(|_| back > 0 && u64::from(back) <= REACH)
        .ok_or(Damaged("an index entry points to nothing"))
}
