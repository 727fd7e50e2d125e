//! Maps of sparse files: the parts of a file that an entry's body holds.

use super::error::Malformation;
use super::header::{RECORD, decimal, field, number};

/// Maximum number of parts of a sparse file; limits the memory of one entry.
pub(super) const SEGMENTS_MAX: usize = 1 << 18;

/// A part of a sparse file that the body holds; the rest of the file is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// The map of a sparse file. Its parts ascend, do not overlap, lie within the file and fill the body exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SparseMap {
    /// Size of the file in bytes.
    pub real_size: u64,
    /// The parts, in the body's order.
    pub segments: Vec<Segment>,
}

impl SparseMap {
    pub(super) fn check(&self, body: u64) -> Result<(), Malformation> {
        let mut end = 0u64;
        let mut stored = 0u64;
        for segment in &self.segments {
            let next = segment
                .offset
                .checked_add(segment.length)
                .filter(|next| *next <= self.real_size);
            let Some(next) = next.filter(|_| segment.offset >= end) else {
                return Err(Malformation::ContradictoryMap);
            };
            stored = stored.saturating_add(segment.length);
            end = next;
        }
        if stored != body || self.real_size > i64::MAX as u64 {
            return Err(Malformation::MapWithoutContent);
        }
        Ok(())
    }
}

/// The part of an old GNU sparse map that is in the header itself, and whether an extension record follows.
pub(super) fn gnu_header(record: &[u8; RECORD]) -> Result<(SparseMap, bool), Malformation> {
    let real_size = number(field(record, 483, 12)).and_then(|size| u64::try_from(size).ok());
    let mut map = SparseMap {
        real_size: real_size.ok_or(Malformation::SparseWithoutSize)?,
        segments: Vec::new(),
    };
    pairs(field(record, 386, 96), &mut map)?;
    Ok((map, record[482] != 0))
}

/// Adds an extension record's parts; returns whether another record follows.
pub(super) fn gnu_extension(record: &[u8; RECORD], map: &mut SparseMap) -> Result<bool, Malformation> {
    pairs(field(record, 0, 504), map)?;
    Ok(record[504] != 0)
}

fn pairs(bytes: &[u8], map: &mut SparseMap) -> Result<(), Malformation> {
    for pair in bytes.chunks_exact(24) {
        let (offset, length) = pair.split_at(12);
        if offset.first() == Some(&0) || length.first() == Some(&0) {
            break;
        }
        let parse = |bytes| number(bytes).and_then(|value| u64::try_from(value).ok());
        let pair = parse(offset).zip(parse(length)).ok_or(Malformation::BrokenMap)?;
        if map.segments.len() >= SEGMENTS_MAX {
            return Err(Malformation::TooManyParts);
        }
        map.segments.push(Segment {
            offset: pair.0,
            length: pair.1,
        });
    }
    Ok(())
}

/// Collects the decimal lines of PAX sparse format 1.0: the count, then offset and length of each part.
#[derive(Debug, Default)]
pub(super) struct MapText {
    line: Vec<u8>,
    expected: Option<usize>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl MapText {
    pub fn complete(&self) -> bool {
        self.expected == Some(self.segments.len())
    }

    pub fn feed(&mut self, record: &[u8]) -> Result<(), Malformation> {
        for &byte in record {
            if self.complete() {
                break;
            }
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > 20 {
                    return Err(Malformation::BrokenMap);
                }
                continue;
            }
            let value = decimal(&self.line).ok_or(Malformation::BrokenMap)?;
            self.line.clear();
            if self.expected.is_none() {
                let count = usize::try_from(value).ok().filter(|count| *count <= SEGMENTS_MAX);
                self.expected = Some(count.ok_or(Malformation::TooManyParts)?);
            } else if let Some(offset) = self.offset.take() {
                self.segments.push(Segment { offset, length: value });
            } else {
                self.offset = Some(value);
            }
        }
        Ok(())
    }

    pub fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}
