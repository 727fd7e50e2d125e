//! Finds the start of the last lines of a log, searching backwards.

use std::fs::File;
use std::io;

use super::files::read_at;
use super::record::{self, MAX_RECORD_BYTES, Record};

const BLOCK_BYTES: u64 = 64 << 10;

/// Searches for the last lines, from the newest file to the oldest.
///
/// The parts of a split line count as one line. If both streams are in the middle of a line, the older part of one may
/// be omitted.
#[derive(Debug)]
pub struct Tail {
    lines: u64,
    seen: u64,
    /// Whether any record was seen: the last one counts even if it does not end a line.
    has_seen_record: bool,
}

impl Tail {
    pub fn new(lines: u64) -> Self {
        Self {
            lines,
            seen: 0,
            has_seen_record: false,
        }
    }

    /// Where the wanted lines start within the first `length` bytes of this file; `None` if they start in an older
    /// file, or there are too few.
    pub fn search(&mut self, file: &File, length: u64) -> io::Result<Option<u64>> {
        // Bytes of the file from `start` on that were read but not searched.
        let mut unseen: Vec<u8> = Vec::new();
        let mut start = length;
        // Data after the last newline is incomplete.
        let mut is_whole = false;
        loop {
            while let Some(newline) = memchr::memrchr(b'\n', &unseen) {
                let after = start + newline as u64 + 1;
                let line = &unseen[newline + 1..];
                if is_whole && self.is_before_wanted(line) {
                    return Ok(Some(after + line.len() as u64 + 1));
                }
                is_whole = true;
                unseen.truncate(newline);
            }
            if start == 0 {
                return Ok((is_whole && self.is_before_wanted(&unseen)).then_some(unseen.len() as u64 + 1));
            }
            if unseen.len() > MAX_RECORD_BYTES {
                // This was not written by microkube; the reader also skips it.
                unseen.clear();
                is_whole = false;
            }
            let count = start.min(BLOCK_BYTES);
            start -= count;
            let mut block = vec![0; count as usize];
            let mut have = 0;
            while let Some(space) = block.get_mut(have..).filter(|space| !space.is_empty()) {
                match read_at(file, space, start + have as u64)? {
                    0 => break,
                    read => have += read,
                }
            }
            block.extend_from_slice(&unseen);
            unseen = block;
        }
    }

    /// Counts a record while going backwards; returns whether it precedes all wanted lines.
    fn is_before_wanted(&mut self, line: &[u8]) -> bool {
        let Some(Record::Output(record)) = record::parse(line) else {
            return false;
        };
        if record.ends_line || !self.has_seen_record {
            self.seen += 1;
        }
        self.has_seen_record = true;
        self.seen > self.lines
    }
}
