//! One line of a log file: `2026-11-21T10:00:00.123456789Z stdout F content`.
//!
//! `F` is a line of output with its newline, `P` a part of a line without one, so the output can be restored byte for
//! byte. A `P` without content and with microkube's own tag gives the positions in both streams; other readers of the
//! format ignore it.

use jiff::Timestamp;

use crate::pod::supervisor_protocol::OutputStream;

/// Longest content of a record; longer lines of output are split.
pub const MAX_CONTENT_BYTES: usize = 16 << 10;

/// Longest record, without its newline. A longer line was not written by microkube.
pub const MAX_RECORD_BYTES: usize = MAX_CONTENT_BYTES + 256;

const POSITION_TAG: &str = "P:microkube-position";

/// How many bytes of each stream precede a point in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Positions {
    pub stdout: u64,
    pub stderr: u64,
}

impl Positions {
    pub fn of(&self, stream: OutputStream) -> u64 {
        match stream {
            OutputStream::Stdout => self.stdout,
            OutputStream::Stderr => self.stderr,
        }
    }

    pub fn of_mut(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        }
    }
}

/// A parsed record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    Output(OutputRecord<'a>),
    /// The positions of both streams at this record.
    Position(Positions),
}

/// A line of output, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputRecord<'a> {
    pub timestamp: &'a [u8],
    pub stream: OutputStream,
    /// Whether a newline follows the content.
    pub ends_line: bool,
    pub content: &'a [u8],
}

impl OutputRecord<'_> {
    /// How many bytes of the stream this record represents.
    pub fn stream_bytes(&self) -> u64 {
        self.content.len() as u64 + u64::from(self.ends_line)
    }
}

/// Formats a time for a record. All years of four digits give the same length, so times can be compared as text.
pub fn stamp(time: Timestamp) -> String {
    format!("{time:.9}")
}

pub fn encode_output(to: &mut Vec<u8>, stamp: &str, stream: OutputStream, ends_line: bool, parts: [&[u8]; 2]) {
    to.extend_from_slice(stamp.as_bytes());
    to.extend_from_slice(match (stream, ends_line) {
        (OutputStream::Stdout, true) => b" stdout F ",
        (OutputStream::Stdout, false) => b" stdout P ",
        (OutputStream::Stderr, true) => b" stderr F ",
        (OutputStream::Stderr, false) => b" stderr P ",
    });
    for part in parts {
        to.extend_from_slice(part);
    }
    to.push(b'\n');
}

pub fn encode_position(stamp: &str, positions: Positions) -> Vec<u8> {
    let Positions { stdout, stderr } = positions;
    format!("{stamp} stdout {POSITION_TAG}:{stdout}:{stderr} \n").into_bytes()
}

/// Parses a record without its newline; `None` if it is invalid.
pub fn parse(line: &[u8]) -> Option<Record<'_>> {
    let (timestamp, rest) = split_at_space(line)?;
    let (stream, rest) = split_at_space(rest)?;
    let (tags, content) = split_at_space(rest)?;
    let stream = match stream {
        b"stdout" => OutputStream::Stdout,
        b"stderr" => OutputStream::Stderr,
        _ => return None,
    };
    if timestamp.is_empty() {
        return None;
    }
    if let Some(positions) = tags.strip_prefix(POSITION_TAG.as_bytes()) {
        let mut numbers = std::str::from_utf8(positions).ok()?.strip_prefix(':')?.split(':');
        let stdout = numbers.next()?.parse().ok()?;
        let stderr = numbers.next()?.parse().ok()?;
        return Some(Record::Position(Positions { stdout, stderr }));
    }
    let ends_line = match tags.split(|byte| *byte == b':').next() {
        Some(b"F") => true,
        Some(b"P") => false,
        _ => return None,
    };
    Some(Record::Output(OutputRecord {
        timestamp,
        stream,
        ends_line,
        content,
    }))
}

fn split_at_space(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (before, rest) = bytes.split_at(memchr::memchr(b' ', bytes)?);
    Some((before, rest.get(1..)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn time() -> Timestamp {
        "2026-11-21T10:00:00.5Z".parse().unwrap()
    }

    #[test]
    fn a_record_has_the_cri_format() {
        let mut text = Vec::new();
        encode_output(
            &mut text,
            &stamp(time()),
            OutputStream::Stderr,
            true,
            [b"hello ", b"world"],
        );
        assert_eq!(text, b"2026-11-21T10:00:00.500000000Z stderr F hello world\n");
    }

    #[test]
    fn positions_are_stored_as_records_that_other_readers_see_as_empty() {
        let positions = Positions {
            stdout: 7,
            stderr: u64::MAX,
        };
        let text = encode_position(&stamp(time()), positions);
        assert_eq!(
            parse(text.strip_suffix(b"\n").unwrap()),
            Some(Record::Position(positions))
        );
        assert!(text.ends_with(b" \n"));
    }

    #[test]
    fn a_record_with_additional_tags_is_parsed() {
        let record = parse(b"2026-11-21T10:00:00Z stdout P:x:y part").unwrap();
        let Record::Output(record) = record else { panic!() };
        assert!(!record.ends_line);
        assert_eq!(record.content, b"part");
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_as_a_record_or_rejected(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
        }

        #[test]
        fn any_content_survives_the_round_trip(content in proptest::collection::vec(any::<u8>(), 0..100), ends_line: bool) {
            let content: Vec<u8> = content.into_iter().filter(|byte| *byte != b'\n').collect();
            let mut text = Vec::new();
            encode_output(&mut text, &stamp(time()), OutputStream::Stdout, ends_line, [&content, b""]);
            let Some(Record::Output(record)) = parse(text.strip_suffix(b"\n").unwrap()) else { panic!() };
            prop_assert_eq!(record.content, content.as_slice());
            prop_assert_eq!(record.ends_line, ends_line);
        }
    }
}
