//! Restores a container's two output streams from the log of an attempt, from one position to another.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use super::files::{self, Part};
use super::reader::Records;
use super::record::{self, OutputRecord, Positions, Record};
use crate::pod::supervisor_protocol::OutputStream;

/// Approximate size of a chunk.
const CHUNK_BYTES: usize = 64 << 10;

/// Reads the output of an attempt. Bytes that the log does not have are skipped and counted.
#[derive(Debug)]
pub struct OutputReader {
    /// The files that follow the current one.
    parts: VecDeque<Part>,
    current: Option<Records>,
    /// Positions of the next record in the log.
    log_position: Positions,
    /// Positions of the next bytes to take from the log.
    next: Positions,
    /// Positions after the bytes that were returned.
    returned: Positions,
    /// Where to stop, if before the end of the log.
    end: Option<Positions>,
    /// The chunk after the last one returned.
    held: Option<(OutputStream, Vec<u8>)>,
    missing_bytes: u64,
}

impl OutputReader {
    /// Opens the log of an attempt in a container's directory, to read the bytes of both streams from `start` to `end`,
    /// or to the end of the log. A container without a log has no output.
    ///
    /// # Errors
    /// If the directory or a file in it cannot be read.
    pub fn open(dir: &Path, attempt: u32, start: Positions, end: Option<Positions>) -> io::Result<Self> {
        let parts = match files::open_parts(dir, attempt) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            parts => parts?,
        };
        Ok(Self {
            parts: parts.into(),
            current: None,
            log_position: Positions::default(),
            next: start,
            returned: start,
            end,
            held: None,
            missing_bytes: 0,
        })
    }

    /// The next bytes of a stream, about 64 KiB at most; `None` at the end. The order of the two streams is that of the
    /// log.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn next_chunk(&mut self) -> io::Result<Option<(OutputStream, Vec<u8>)>> {
        let first = match self.held.take() {
            Some(held) => Some(held),
            None => self.piece()?,
        };
        let Some((stream, mut bytes)) = first else {
            self.returned = self.next;
            return Ok(None);
        };
        while bytes.len() < CHUNK_BYTES {
            match self.piece()? {
                Some((of, more)) if of == stream => bytes.extend(more),
                other => {
                    self.held = other;
                    break;
                }
            }
        }
        // The held bytes belong to the other stream.
        *self.returned.of_mut(stream) = self.next.of(stream);
        Ok(Some((stream, bytes)))
    }

    /// Positions after the bytes that [`Self::next_chunk`] has returned, and after those that are missing.
    #[must_use]
    pub fn position(&self) -> Positions {
        self.returned
    }

    /// How many bytes before the end are not in the log: they were rotated out of it, or could not be written. Complete
    /// once [`Self::next_chunk`] has returned `None`.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// The wanted bytes of the next record that has any.
    fn piece(&mut self) -> io::Result<Option<(OutputStream, Vec<u8>)>> {
        while !self.has_everything() {
            let Some(records) = &mut self.current else {
                match self.parts.pop_front() {
                    Some(part) => self.current = Some(Records::new(part.file, 0, None)),
                    None => break,
                }
                continue;
            };
            let Some(line) = records.next()? else {
                self.current = None;
                continue;
            };
            match record::parse(records.line(line)) {
                Some(Record::Position(positions)) => self.log_position = positions,
                Some(Record::Output(output)) => {
                    let stream = output.stream;
                    let start = self.log_position.of(stream);
                    let end = start.saturating_add(output.stream_bytes());
                    *self.log_position.of_mut(stream) = end;
                    let until = self.end.map_or(u64::MAX, |end| end.of(stream));
                    let next = self.next.of(stream);
                    let (from, to) = (start.max(next).min(until), end.min(until));
                    if from < to {
                        let bytes = part_of(&output, from - start, to - start);
                        self.missing_bytes = self.missing_bytes.saturating_add(from - next);
                        *self.next.of_mut(stream) = to;
                        return Ok(Some((stream, bytes)));
                    }
                }
                None => {}
            }
        }
        self.note_missing_end();
        Ok(None)
    }

    fn has_everything(&self) -> bool {
        self.end.is_some_and(|end| {
            [OutputStream::Stdout, OutputStream::Stderr]
                .iter()
                .all(|stream| self.next.of(*stream) >= end.of(*stream))
        })
    }

    /// The log has ended: what is still wanted is missing.
    fn note_missing_end(&mut self) {
        let end = self.end.unwrap_or(self.log_position);
        for stream in [OutputStream::Stdout, OutputStream::Stderr] {
            let next = self.next.of_mut(stream);
            self.missing_bytes = self.missing_bytes.saturating_add(end.of(stream).saturating_sub(*next));
            *next = end.of(stream).max(*next);
        }
    }
}

/// Bytes of the record's stream; positions count from its start.
fn part_of(record: &OutputRecord<'_>, from: u64, to: u64) -> Vec<u8> {
    let index = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    let length = record.content.len();
    let content = index(from).min(length)..index(to).min(length);
    let mut bytes = record.content.get(content).unwrap_or_default().to_vec();
    if record.ends_line && index(to) > length {
        bytes.push(b'\n');
    }
    bytes
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::pod::logs::{Limits, LogWriter};

    const BOTH: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

    /// The bytes that a reader returns of each stream, and how many were missing.
    fn read(dir: &Path, start: Positions, end: Option<Positions>) -> ([Vec<u8>; 2], u64) {
        let mut reader = OutputReader::open(dir, 0, start, end).unwrap();
        let mut streams = [Vec::new(), Vec::new()];
        let mut position = start;
        while let Some((stream, bytes)) = reader.next_chunk().unwrap() {
            assert!(!bytes.is_empty());
            *position.of_mut(stream) += bytes.len() as u64;
            if reader.missing_bytes() == 0 {
                assert_eq!(reader.position(), position);
            }
            streams[stream as usize].extend(bytes);
        }
        (streams, reader.missing_bytes())
    }

    fn positions(stdout: usize, stderr: usize) -> Positions {
        Positions {
            stdout: stdout as u64,
            stderr: stderr as u64,
        }
    }

    fn write(dir: &Path, limits: Limits, pieces: &[(OutputStream, Vec<u8>)]) -> [Vec<u8>; 2] {
        let mut log = LogWriter::open(dir.to_owned(), 0, limits);
        let mut all = [Vec::new(), Vec::new()];
        for (stream, bytes) in pieces {
            log.write(*stream, bytes, Timestamp::now());
            log.flush();
            all[*stream as usize].extend(bytes);
        }
        BOTH.into_iter().for_each(|stream| log.finish(stream, Timestamp::now()));
        all
    }

    #[test]
    fn a_container_without_a_log_has_no_output() {
        let dir = tempfile::tempdir().unwrap();
        let found = read(&dir.path().join("none"), Positions::default(), None);
        assert_eq!(found, ([Vec::new(), Vec::new()], 0));
    }

    #[test]
    fn bytes_that_were_rotated_out_of_the_log_are_counted_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let limits = Limits {
            file_bytes: 200,
            files: 2,
        };
        let lines: Vec<_> = (10..40).map(|number| format!("line {number}\n").into_bytes()).collect();
        let pieces: Vec<_> = lines.into_iter().map(|line| (OutputStream::Stdout, line)).collect();
        let all = write(dir.path(), limits, &pieces);
        let ([found, _], missing) = read(dir.path(), Positions::default(), None);
        assert!(!found.is_empty() && missing > 0);
        assert_eq!(all[0].len() as u64, found.len() as u64 + missing);
        assert!(all[0].ends_with(&found));
        // Bytes that the log never got.
        let more = all[0].len() + 7;
        let ([end, _], missing) = read(dir.path(), positions(all[0].len() - 3, 0), Some(positions(more, 0)));
        assert_eq!((end.as_slice(), missing), (&b"39\n"[..], 7));
    }

    proptest! {
        #[test]
        fn any_part_of_both_streams_is_restored(
            pieces in proptest::collection::vec((any::<bool>(), "[a-c\n]{0,60}"), 0..30),
            cuts in any::<[u16; 4]>(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let limits = Limits { file_bytes: 300, files: 5000 };
            let pieces: Vec<_> = pieces
                .into_iter()
                .map(|(is_stderr, text)| (BOTH[usize::from(is_stderr)], text.into_bytes()))
                .collect();
            let all = write(dir.path(), limits, &pieces);
            prop_assert_eq!(read(dir.path(), Positions::default(), None), (all.clone(), 0));
            let cut = |stream: usize, number: usize| usize::from(cuts[number]) % (all[stream].len() + 1);
            let (from, to) = ([cut(0, 0), cut(1, 1)], [cut(0, 2), cut(1, 3)]);
            let found = read(dir.path(), positions(from[0], from[1]), Some(positions(to[0], to[1])));
            let expected = [0, 1].map(|stream| all[stream].get(from[stream]..to[stream]).unwrap_or_default().to_vec());
            prop_assert_eq!(found, (expected, 0));
        }
    }
}
