//! One line of a log file: `2026-11-21T10:00:00.123456789Z stdout F content`.
//!
//! `F` is a line of output and its newline, `P` a part of a line without one, so that the output is known byte for byte. A `P`
//! without content and with a tag of ours tells the position in both streams; other readers of the format see nothing in it.

use jiff::Timestamp;

use crate::pod::supervisor_protocol::OutputStream;

/// Longest content of a record; longer lines of output are cut.
pub const MAX_CONTENT_BYTES: usize = 16 << 10;

/// Longest record without its newline. What is longer was not written by microkube.
pub const MAX_RECORD_BYTES: usize = MAX_CONTENT_BYTES + 256;

const POSITION_TAG: &str = "P:microkube-position";

/// How many bytes of each stream there have been.
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

/// A record as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record<'a> {
    Output(OutputRecord<'a>),
    /// The positions at which the streams are here.
    Position(Positions),
}

/// A line of output, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputRecord<'a> {
    pub timestamp: &'a [u8],
    pub stream: OutputStream,
    /// A newline follows the content.
    pub ends_line: bool,
    pub content: &'a [u8],
}

impl OutputRecord<'_> {
    /// Bytes of the stream that this record stands for.
    pub fn stream_bytes(&self) -> u64 {
        self.content.len() as u64 + u64::from(self.ends_line)
    }
}

/// A time as records have it; of the same length for all years of four digits, so that times compare as texts.
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

/// Reads a record without its newline; `None` if it is none.
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
    fn a_record_has_the_cris_format() {
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
    fn positions_are_kept_in_what_others_read_as_nothing() {
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
    fn a_record_of_another_writer_with_further_tags_is_understood() {
        let record = parse(b"2026-11-21T10:00:00Z stdout P:x:y part").unwrap();
        let Record::Output(record) = record else { panic!() };
        assert!(!record.ends_line);
        assert_eq!(record.content, b"part");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_not(line in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&line);
        }

        #[test]
        fn any_content_is_read_as_written(content in proptest::collection::vec(any::<u8>(), 0..100), ends_line: bool) {
            let content: Vec<u8> = content.into_iter().filter(|byte| *byte != b'\n').collect();
            let mut text = Vec::new();
            encode_output(&mut text, &stamp(time()), OutputStream::Stdout, ends_line, [&content, b""]);
            let Some(Record::Output(record)) = parse(text.strip_suffix(b"\n").unwrap()) else { panic!() };
            prop_assert_eq!(record.content, content.as_slice());
            prop_assert_eq!(record.ends_line, ends_line);
        }
    }
}
