//! Finds the start of the last lines of a log, from its end.

use std::fs::File;
use std::io;

use super::files::read_at;
use super::record::{self, MAX_RECORD_BYTES, Record};

const BLOCK_BYTES: u64 = 64 << 10;

/// Looks for the last lines, from the newest file to the oldest.
///
/// The parts of a line that was cut count as one. Where both streams are in the middle of a line, the older part of one may be
/// left out.
#[derive(Debug)]
pub struct Tail {
    lines: u64,
    seen: u64,
    /// Whether any record was seen: one that does not end a line does count if it is the last.
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

    /// Where in the first `length` bytes of this file the wanted lines start; `None` if they start in an older file, or there are
    /// not as many.
    pub fn search(&mut self, file: &File, length: u64) -> io::Result<Option<u64>> {
        // Bytes of the file from `start` on that were read and not looked at.
        let mut unseen: Vec<u8> = Vec::new();
        let mut start = length;
        // What is behind the last newline is being written, or cut off.
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
                // Not written by microkube: passed over by whoever reads, too.
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

    /// Counts a record, going backwards; whether it lies before all that is wanted.
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
