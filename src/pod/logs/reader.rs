//! Reads logs: all files of an attempt in order, and with `follow` new output, across rotations and restarts.
//!
//! The files' content comes from a container: no line makes the reader hold more than its buffer.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use jiff::Timestamp;

use super::files::{self, Part, read_at};
use super::record::{self, MAX_RECORD_BYTES, OutputRecord, Record};
use super::tail;

const BUFFER_BYTES: usize = 64 << 10;

/// Approximate size of an output chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Iterates over the complete lines of a file.
#[derive(Debug)]
pub struct Records {
    file: File,
    buffer: Vec<u8>,
    /// The part of the buffer that was read from the file but not returned yet.
    filled: Range<usize>,
    /// File position of the next line.
    line_start: u64,
    /// How many bytes of that line were skipped because it is too long.
    skipped: u64,
    /// Where to stop, if before the end of the file.
    end: Option<u64>,
}

impl Records {
    pub fn new(file: File, start: u64, end: Option<u64>) -> Self {
        Self {
            file,
            buffer: vec![0; BUFFER_BYTES],
            filled: 0..0,
            line_start: start,
            skipped: 0,
            end,
        }
    }

    /// File position of the first byte that was not returned yet.
    pub fn offset(&self) -> u64 {
        self.line_start
    }

    /// The next line without its newline, or `None` if no complete line is available. An incomplete line is read again
    /// later: its writer may have to remove it.
    pub fn next(&mut self) -> io::Result<Option<Range<usize>>> {
        let mut searched = 0;
        loop {
            let unread = &self.buffer[self.filled.clone()];
            let new = &unread[searched..];
            if let Some(end) = memchr::memchr(b'\n', new) {
                let line = self.filled.start..self.filled.start + searched + end;
                self.line_start += self.skipped + line.len() as u64 + 1;
                self.filled.start = line.end + 1;
                searched = 0;
                if std::mem::take(&mut self.skipped) == 0 {
                    return Ok(Some(line));
                }
                continue;
            }
            if unread.len() > MAX_RECORD_BYTES {
                self.skipped += unread.len() as u64;
                self.filled = 0..0;
            }
            searched = self.filled.len();
            self.buffer.copy_within(self.filled.clone(), 0);
            self.filled = 0..searched;
            let at = self.line_start + self.skipped + searched as u64;
            let room = self.end.map_or(u64::MAX, |end| end.saturating_sub(at));
            let space = &mut self.buffer[searched..];
            let space_length = space.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            let count = read_at(&self.file, &mut space[..space_length], at)?;
            if count == 0 {
                self.filled = 0..0;
                return Ok(None);
            }
            self.filled.end += count;
        }
    }

    /// The bytes of the line that [`Self::next`] has just returned.
    pub fn line(&self, line: Range<usize>) -> &[u8] {
        &self.buffer[line]
    }
}

/// Which part of a log to read, and how to format it.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Only this many bytes. Timestamps count, the prefix does not.
    pub limit_bytes: Option<u64>,
    /// Print the timestamp before each line.
    pub timestamps: bool,
    /// Printed before each line.
    pub prefix: String,
    /// Continue with new output and later attempts.
    pub follow: bool,
}

/// The result of [`LogReader::read`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// There is more to read.
    More,
    /// Everything written so far was read.
    CaughtUp,
    /// Everything requested was read.
    LimitReached,
}

/// Reads the log of a container, starting with one attempt.
#[derive(Debug)]
pub struct LogReader {
    pub(super) dir: PathBuf,
    attempt: u32,
    options: ReadOptions,
    since: Option<String>,
    left_bytes: u64,
    /// Length of the newest file when the log was opened.
    end: u64,
    current: Option<Current>,
    newer: VecDeque<Part>,
    at_line_start: bool,
}

#[derive(Debug)]
struct Current {
    records: Records,
    inode: u64,
    start: u64,
    /// It is known that nothing more will be written to it.
    is_final: bool,
}

impl LogReader {
    /// Opens the log of an attempt in a container's directory.
    ///
    /// # Errors
    /// If the directory or a file in it cannot be read.
    pub fn open(dir: PathBuf, attempt: u32, options: ReadOptions) -> io::Result<Self> {
        let mut parts = files::open_parts(&dir, attempt)?;
        let newest_length = match parts.last() {
            Some(newest) => newest.file.metadata()?.len(),
            None => 0,
        };
        let mut start = 0;
        if let Some(lines) = options.tail_lines {
            let mut tail = tail::Tail::new(lines);
            let mut from = 0;
            for (index, part) in parts.iter().enumerate().rev() {
                let length = part.file.metadata()?.len();
                if let Some(offset) = tail.search(&part.file, length)? {
                    (from, start) = (index, offset);
                    break;
                }
            }
            parts.drain(..from);
        }
        let mut newer = VecDeque::from(parts);
        let current = newer.pop_front().map(|part| Current {
            records: Records::new(
                part.file,
                start,
                (!options.follow && newer.is_empty()).then_some(newest_length),
            ),
            inode: part.inode,
            start: part.start,
            is_final: !newer.is_empty(),
        });
        Ok(Self {
            dir,
            attempt,
            since: options.since.map(record::stamp),
            left_bytes: options.limit_bytes.unwrap_or(u64::MAX),
            options,
            end: newest_length,
            current,
            newer,
            at_line_start: true,
        })
    }

    /// Appends the next output to `to`, about 64 KiB at most.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read(&mut self, to: &mut Vec<u8>) -> io::Result<Progress> {
        while to.len() < CHUNK_BYTES {
            if self.left_bytes == 0 {
                return Ok(Progress::LimitReached);
            }
            let Some(mut current) = self.current.take() else {
                if self.next_file(true)? {
                    continue;
                }
                return Ok(Progress::CaughtUp);
            };
            let line = current.records.next()?;
            if let Some(line) = line {
                if let Some(Record::Output(output)) = record::parse(current.records.line(line)) {
                    self.show(output, to);
                }
                self.current = Some(current);
            } else if current.is_final {
                let attempt = self.attempt;
                if !self.next_file(false)? {
                    self.current = Some(current);
                    return Ok(Progress::CaughtUp);
                }
                // Output of another attempt does not continue the previous attempt's last line.
                if self.attempt != attempt && !self.at_line_start && self.decorates() {
                    to.push(b'\n');
                    self.at_line_start = true;
                }
            } else {
                // Output written between the end just seen and the rotation still has to be read.
                current.is_final = self.options.follow && self.is_over(&current)?;
                let caught_up = !current.is_final;
                self.current = Some(current);
                if caught_up {
                    return Ok(Progress::CaughtUp);
                }
            }
        }
        Ok(Progress::More)
    }

    /// Whether the newest known file is complete because there is a newer one.
    fn is_over(&mut self, current: &Current) -> io::Result<bool> {
        let newest = files::part_path(&self.dir, self.attempt, 0);
        let is_newest = std::fs::metadata(newest).is_ok_and(|newest| newest.ino() == current.inode);
        let next = files::part_path(&self.dir, self.attempt.saturating_add(1), 0);
        if is_newest && !next.exists() {
            return Ok(false);
        }
        // Check this before opening the files: once there is a next attempt, this one gets no more of them.
        let has_next = self.next_attempt()?.is_some();
        let parts = missing_is_empty(files::open_parts(&self.dir, self.attempt))?;
        let known = parts.iter().position(|part| part.inode == current.inode);
        if known.is_none() && !parts.is_empty() {
            tracing::warn!("output was rotated out of the log before it could be read");
        }
        self.newer
            .extend(parts.into_iter().enumerate().filter_map(|(index, part)| {
                let is_newer = known.map_or(part.start > current.start, |known| index > known);
                is_newer.then_some(part)
            }));
        Ok(has_next || !self.newer.is_empty())
    }

    fn next_attempt(&self) -> io::Result<Option<u32>> {
        let attempts = missing_is_empty(files::attempts(&self.dir))?;
        Ok(attempts.into_iter().find(|attempt| *attempt > self.attempt))
    }

    /// Advances to the next file; returns false if there is none. `is_first`: no file of this attempt was read yet.
    fn next_file(&mut self, is_first: bool) -> io::Result<bool> {
        if self.newer.is_empty() && self.options.follow {
            if is_first {
                self.newer = missing_is_empty(files::open_parts(&self.dir, self.attempt))?.into();
            }
            if self.newer.is_empty()
                && let Some(next) = self.next_attempt()?
            {
                self.newer = files::open_parts(&self.dir, next)?.into();
                if !self.newer.is_empty() {
                    self.attempt = next;
                }
            }
        }
        let Some(part) = self.newer.pop_front() else {
            return Ok(false);
        };
        let is_last = self.newer.is_empty();
        // Without `follow`, read the log as it was when it was opened, however fast it grows.
        let end = (is_last && !self.options.follow).then_some(self.end);
        self.current = Some(Current {
            records: Records::new(part.file, 0, end),
            inode: part.inode,
            start: part.start,
            is_final: !is_last,
        });
        Ok(true)
    }

    /// Whether lines get a timestamp or prefix.
    fn decorates(&self) -> bool {
        self.options.timestamps || !self.options.prefix.is_empty()
    }

    fn show(&mut self, record: OutputRecord<'_>, to: &mut Vec<u8>) {
        if self
            .since
            .as_ref()
            .is_some_and(|since| record.timestamp < since.as_bytes())
        {
            return;
        }
        if self.at_line_start {
            to.extend_from_slice(self.options.prefix.as_bytes());
            if self.options.timestamps {
                self.limited(record.timestamp, to);
                self.limited(b" ", to);
            }
        }
        self.limited(record.content, to);
        if record.ends_line {
            self.limited(b"\n", to);
        }
        self.at_line_start = record.ends_line;
    }

    fn limited(&mut self, bytes: &[u8], to: &mut Vec<u8>) {
        let length = bytes.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        to.extend_from_slice(&bytes[..length]);
        self.left_bytes = self.left_bytes.saturating_sub(length as u64);
    }
}

/// The log of a deleted Pod is empty.
fn missing_is_empty<T>(result: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}
