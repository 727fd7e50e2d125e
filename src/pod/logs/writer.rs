//! Writes the log of one attempt of a container.
//!
//! A supervisor may be killed at any moment, and its successor continues from these files: files change only at their
//! end, a torn record is dropped, and the records add up to the positions in both streams.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use jiff::Timestamp;
use microkube_base::private_directory;

use super::files;
use super::reader::Records;
use super::record::{self, MAX_CONTENT_BYTES, Positions, Record};
use crate::pod::supervisor_protocol::OutputStream;

/// How many bytes are collected before they are written.
const BATCH_BYTES: usize = 256 << 10;

/// Size limits of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Size at which a file is replaced by the next one, in bytes.
    pub file_bytes: u64,
    /// How many files are kept, including the current one.
    pub files: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 10 << 20,
            files: 5,
        }
    }
}

/// The log of one attempt of a container. It has a single writer.
///
/// Writing never fails: records that cannot be written, for example to a full disk, are dropped with one warning and
/// count as written. A log never blocks its container.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    attempt: u32,
    limits: Limits,
    file: Option<File>,
    /// Length of the complete records in the file.
    length: u64,
    /// Whether the file has more than its first record.
    has_output: bool,
    /// Records that were not written yet.
    batch: Vec<u8>,
    /// The unfinished line of each stream.
    unfinished: [Vec<u8>; 2],
    /// Positions of both streams at the end of the batch.
    taken: Positions,
    durable: Positions,
    /// The positions cannot be computed from the file any more: a position record must precede the next one.
    positions_unknown: bool,
    warned: bool,
}

impl LogWriter {
    /// Opens the log of an attempt in a container's directory, new or as a dead writer left it. Removes the logs of all
    /// earlier attempts except for the previous one.
    #[must_use]
    pub fn open(dir: PathBuf, attempt: u32, limits: Limits) -> Self {
        let mut log = Self {
            dir,
            attempt,
            limits,
            file: None,
            length: 0,
            has_output: false,
            batch: Vec::new(),
            unfinished: Default::default(),
            taken: Positions::default(),
            durable: Positions::default(),
            positions_unknown: false,
            warned: false,
        };
        if let Err(error) = log.take_over() {
            log.warn(&error);
        }
        log
    }

    fn take_over(&mut self) -> io::Result<()> {
        private_directory::create(&self.dir)?;
        files::remove_before(&self.dir, self.attempt.saturating_sub(1))?;
        let Some(&newest) = files::numbers(&self.dir, self.attempt)?.first() else {
            return self.start_file();
        };
        let path = files::part_path(&self.dir, self.attempt, newest);
        let file = File::options().read(true).write(true).open(&path)?;
        let mut records = Records::new(file.try_clone()?, 0, None);
        let mut positions = Positions::default();
        let mut has_output = false;
        while let Some(line) = records.next()? {
            match record::parse(records.line(line)) {
                Some(Record::Position(here)) => positions = here,
                Some(Record::Output(output)) => {
                    has_output = true;
                    let position = positions.of_mut(output.stream);
                    *position = position.saturating_add(output.stream_bytes());
                }
                None => {}
            }
        }
        self.taken = positions;
        self.durable = positions;
        // A writer that died between the two renames of a rotation leaves no file 0: the next batch creates it.
        if newest == 0 {
            self.length = records.offset();
            self.has_output = has_output;
            file.set_len(self.length)?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// How many bytes of a stream are in the log, or were dropped because they could not be written. Bytes given to
    /// [`Self::write`] beyond this position are still in memory.
    #[must_use]
    pub fn position(&self, stream: OutputStream) -> u64 {
        self.durable.of(stream)
    }

    /// [`Self::position`] of both streams.
    #[must_use]
    pub fn positions(&self) -> Positions {
        self.durable
    }

    /// The bytes of a stream after [`Self::position`], once everything else was flushed.
    #[must_use]
    pub fn unfinished_line(&self, stream: OutputStream) -> &[u8] {
        let [stdout, stderr] = &self.unfinished;
        match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        }
    }

    /// Declares that the next bytes of a stream are those at `position`. If that differs from [`Self::position`], the
    /// bytes between were lost.
    pub fn resume_at(&mut self, stream: OutputStream, position: u64) {
        if self.durable.of(stream) != position {
            self.flush();
            *self.durable.of_mut(stream) = position;
            self.taken = self.durable;
            self.positions_unknown = true;
        }
    }

    /// Accepts a container's output. [`Self::flush`] writes it to the file, except for an unfinished line.
    pub fn write(&mut self, stream: OutputStream, bytes: &[u8], now: Timestamp) {
        let stamp = record::stamp(now);
        let mut rest = bytes;
        while !rest.is_empty() {
            let unfinished = self.unfinished(stream).len();
            let room = MAX_CONTENT_BYTES.saturating_sub(unfinished);
            let (line, after) = match memchr::memchr(b'\n', rest.get(..=room).unwrap_or(rest)) {
                Some(end) => (&rest[..end], rest.get(end + 1..)),
                None => (rest.get(..room).unwrap_or(rest), None),
            };
            match after {
                Some(after) => {
                    self.record(stream, &stamp, true, line);
                    rest = after;
                }
                None => {
                    rest = &rest[line.len()..];
                    if unfinished + line.len() == MAX_CONTENT_BYTES {
                        self.record(stream, &stamp, false, line);
                    } else {
                        self.unfinished(stream).extend_from_slice(line);
                    }
                }
            }
        }
    }

    /// Ends a stream: its last line is written even without a newline.
    pub fn finish(&mut self, stream: OutputStream, now: Timestamp) {
        if !self.unfinished(stream).is_empty() {
            self.record(stream, &record::stamp(now), false, b"");
        }
        self.flush();
    }

    fn unfinished(&mut self, stream: OutputStream) -> &mut Vec<u8> {
        let [stdout, stderr] = &mut self.unfinished;
        match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        }
    }

    /// Adds a stream's unfinished line and `line` to the batch.
    fn record(&mut self, stream: OutputStream, stamp: &str, ends_line: bool, line: &[u8]) {
        let mut start = std::mem::take(self.unfinished(stream));
        record::encode_output(&mut self.batch, stamp, stream, ends_line, [&start, line]);
        let bytes = (start.len() + line.len()) as u64 + u64::from(ends_line);
        let position = self.taken.of_mut(stream);
        *position = position.saturating_add(bytes);
        start.clear();
        *self.unfinished(stream) = start;
        if self.batch.len() as u64 >= self.limits.file_bytes.min(BATCH_BYTES as u64) {
            self.flush();
        }
    }

    /// Writes the complete lines that were accepted.
    pub fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        match self.store(&batch) {
            Ok(()) => {
                self.warned = false;
            }
            Err(error) => {
                self.warn(&error);
                self.positions_unknown = true;
            }
        }
        self.durable = self.taken;
        self.batch = batch;
        self.batch.clear();
    }

    fn store(&mut self, batch: &[u8]) -> io::Result<()> {
        let is_full = self.length.saturating_add(batch.len() as u64) > self.limits.file_bytes;
        if self.file.is_none() || (self.has_output && is_full) {
            self.start_file()?;
        }
        if self.positions_unknown {
            let positions = record::encode_position(&record::stamp(Timestamp::now()), self.durable);
            self.append(&positions)?;
            self.positions_unknown = false;
        }
        self.has_output = true;
        self.append(batch)
    }

    /// Appends to the file: all records, or those that fit.
    fn append(&mut self, records: &[u8]) -> io::Result<()> {
        let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut written = 0;
        let result = loop {
            let rest = &records[written..];
            if rest.is_empty() {
                break Ok(());
            }
            match file.write_at(rest, self.length.saturating_add(written as u64)) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let whole = match result {
            Ok(()) => written,
            Err(_) => records
                .get(..written)
                .and_then(|written| memchr::memrchr(b'\n', written))
                .map_or(0, |end| end + 1),
        };
        self.length = self.length.saturating_add(whole as u64);
        if result.is_err() {
            // If this fails too, the next record overwrites the rest of this one.
            let _ = file.set_len(self.length);
        }
        result
    }

    /// Creates the next file and renames the others. The positions are written before the file gets its name.
    fn start_file(&mut self) -> io::Result<()> {
        private_directory::create(&self.dir)?;
        let new = files::new_path(&self.dir, self.attempt);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        let positions = record::encode_position(&record::stamp(Timestamp::now()), self.durable);
        file.write_all_at(&positions, 0)?;
        let path = |number| files::part_path(&self.dir, self.attempt, number);
        for number in files::numbers(&self.dir, self.attempt)?.into_iter().rev() {
            if number + 1 < self.limits.files {
                std::fs::rename(path(number), path(number + 1))?;
            } else {
                files::remove(&path(number))?;
            }
        }
        self.file = None;
        std::fs::rename(&new, path(0))?;
        self.file = Some(file);
        self.length = positions.len() as u64;
        self.has_output = false;
        self.positions_unknown = false;
        Ok(())
    }

    /// Warns once until a write succeeds again.
    fn warn(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            let path = files::part_path(&self.dir, self.attempt, 0);
            tracing::warn!("container output lost: cannot write {}: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::logs::{LogReader, ReadOptions};

    #[test]
    fn unwritable_output_is_dropped_and_still_counted_in_positions() {
        let dir = tempfile::tempdir().unwrap();
        let now = Timestamp::now();
        let mut log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
        let write = |log: &mut LogWriter, text: &[u8]| {
            log.write(OutputStream::Stdout, text, now);
            log.flush();
        };
        write(&mut log, b"one\n");
        // A read-only descriptor stands for a full disk.
        let file = log
            .file
            .replace(File::open(files::part_path(dir.path(), 0, 0)).unwrap());
        write(&mut log, b"lost\n");
        assert!(log.warned);
        assert_eq!(log.position(OutputStream::Stdout), 9);
        log.file = file;
        write(&mut log, b"two\n");
        assert!(!log.warned);
        drop(log);

        let log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
        assert_eq!(log.position(OutputStream::Stdout), 13);
        let mut text = Vec::new();
        let mut reader = LogReader::open(dir.path().to_owned(), 0, ReadOptions::default()).unwrap();
        reader.read(&mut text).unwrap();
        assert_eq!(text, b"one\ntwo\n");
    }

    #[test]
    fn a_log_that_cannot_be_created_blocks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let not_a_dir = dir.path().join("file");
        std::fs::write(&not_a_dir, "").unwrap();
        let mut log = LogWriter::open(not_a_dir.join("logs"), 0, Limits::default());
        log.write(OutputStream::Stderr, b"lost\n", Timestamp::now());
        log.flush();
        assert_eq!(log.position(OutputStream::Stderr), 5);
    }
}
