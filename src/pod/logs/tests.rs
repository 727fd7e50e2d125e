//! The reader returns what the writer was given, despite rotations, restarts and kills in between.

use std::os::unix::fs::FileExt;
use std::path::Path;

use jiff::Timestamp;
use proptest::prelude::*;
use tokio::sync::{mpsc, watch};

use super::record::{self, Record};
use super::*;
use crate::pod::supervisor_protocol::OutputStream;

const STREAMS: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];
const ENDLESS: Limits = Limits {
    file_bytes: 300,
    files: 5000,
};

fn time(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn read(dir: &Path, attempt: u32, options: ReadOptions) -> Vec<u8> {
    let mut reader = LogReader::open(dir.to_owned(), attempt, options).unwrap();
    let mut all = Vec::new();
    loop {
        let mut chunk = Vec::new();
        let progress = reader.read(&mut chunk).unwrap();
        all.extend(chunk);
        if progress != Progress::More {
            return all;
        }
    }
}

fn read_text(dir: &Path, options: ReadOptions) -> String {
    String::from_utf8(read(dir, 0, options)).unwrap()
}

/// The content of each stream according to the files.
fn streams(dir: &Path, attempt: u32) -> [Vec<u8>; 2] {
    let mut streams = [Vec::new(), Vec::new()];
    for part in files::open_parts(dir, attempt).unwrap() {
        let text = std::io::read_to_string(part.file).map(String::into_bytes);
        let text = text.unwrap_or_else(|_| panic!("the tests for invalid UTF-8 read bytes"));
        for line in text.split(|byte| *byte == b'\n') {
            if let Some(Record::Output(output)) = record::parse(line) {
                let of = &mut streams[usize::from(output.stream == OutputStream::Stderr)];
                of.extend_from_slice(output.content);
                of.extend_from_slice(if output.ends_line { b"\n" } else { b"" });
            }
        }
    }
    streams
}

fn write_lines(dir: &Path, lines: &[&str]) {
    let mut log = LogWriter::open(dir.to_owned(), 0, Limits::default());
    for (second, line) in (0..).zip(lines) {
        log.write(OutputStream::Stdout, line.as_bytes(), time(second));
    }
    log.finish(OutputStream::Stdout, time(99));
}

/// Bytes with many newlines, and sometimes a long run without any.
fn output() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = prop_oneof![4 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\r'), 1 => Just(0)];
    prop_oneof![
        8 => proptest::collection::vec(any_byte, 0..120),
        // No newlines: each would be a record, and every few of them a file.
        1 => (b'\x0b'..=0xff, 16_000_usize..40_000).prop_map(|(byte, length)| vec![byte; length]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_output_in_any_chunks_is_read_as_written(pieces in proptest::collection::vec(output(), 0..20), flush: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().to_owned(), 0, ENDLESS);
        for piece in &pieces {
            log.write(OutputStream::Stdout, piece, time(0));
            if flush {
                log.flush();
            }
        }
        log.finish(OutputStream::Stdout, time(0));
        let all = pieces.concat();
        prop_assert_eq!(log.position(OutputStream::Stdout), all.len() as u64);
        prop_assert_eq!(read(dir.path(), 0, ReadOptions::default()), all);
    }

    #[test]
    fn a_writer_killed_at_any_time_resumes_without_lost_or_duplicate_bytes(
        output in "[a-c\n]{0,900}",
        errors in "[x-z\n]{0,900}",
        steps in proptest::collection::vec((1_usize..200, any::<bool>(), proptest::option::of(any::<u16>()), any::<bool>()), 1..30),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let all = [output.as_bytes(), errors.as_bytes()];
        let mut log = LogWriter::open(dir.path().to_owned(), 3, ENDLESS);
        let mut sent = [0_usize; 2];
        for (length, is_stderr, cut, between_renames) in steps {
            let which = usize::from(is_stderr);
            let end = all[which].len().min(sent[which] + length);
            log.write(STREAMS[which], &all[which][sent[which]..end], time(0));
            sent[which] = end;
            let Some(cut) = cut else { continue };
            // The writer was killed during a write: any part of the file's end is missing, except for the first record,
            // which was written before the file got its name.
            log.flush();
            drop(log);
            let path = dir.path().join("3.log");
            if let Ok(text) = std::fs::read(&path) {
                let first = text.iter().position(|byte| *byte == b'\n').unwrap() + 1;
                let kept = first + usize::from(cut) % (text.len() - first + 1);
                std::fs::File::options().write(true).open(&path).unwrap().set_len(kept as u64).unwrap();
                if between_renames {
                    for number in files::numbers(dir.path(), 3).unwrap().into_iter().rev() {
                        let path = |number| files::part_path(dir.path(), 3, number);
                        std::fs::rename(path(number), path(number + 1)).unwrap();
                    }
                    // Only the current file's torn record is removed.
                    let text = std::fs::read(files::part_path(dir.path(), 3, 1)).unwrap();
                    let whole = text.iter().rposition(|byte| *byte == b'\n').unwrap() + 1;
                    std::fs::write(files::part_path(dir.path(), 3, 1), &text[..whole]).unwrap();
                }
            }
            log = LogWriter::open(dir.path().to_owned(), 3, ENDLESS);
            for which in [0, 1] {
                sent[which] = usize::try_from(log.position(STREAMS[which])).unwrap();
            }
        }
        for which in [0, 1] {
            log.write(STREAMS[which], &all[which][sent[which]..], time(0));
            log.finish(STREAMS[which], time(0));
        }
        let found = streams(dir.path(), 3);
        prop_assert_eq!(&found[0], all[0]);
        prop_assert_eq!(&found[1], all[1]);
    }

    #[test]
    fn the_tail_is_the_last_lines_and_an_unfinished_one_counts(text in "[ab\n]{0,600}", lines in 0_u64..40) {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogWriter::open(dir.path().to_owned(), 0, ENDLESS);
        for piece in text.as_bytes().chunks(7) {
            log.write(OutputStream::Stdout, piece, time(0));
            log.flush();
        }
        log.finish(OutputStream::Stdout, time(0));
        let all: Vec<&str> = text.split_inclusive('\n').collect();
        let wanted = all[all.len().saturating_sub(usize::try_from(lines).unwrap())..].concat();
        let options = ReadOptions { tail_lines: Some(lines), ..ReadOptions::default() };
        prop_assert_eq!(read_text(dir.path(), options), wanted);
    }

    #[test]
    fn any_file_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000), lines in 0_u64..9) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("0.log"), &bytes).unwrap();
        let options = ReadOptions { tail_lines: Some(lines), ..ReadOptions::default() };
        read(dir.path(), 0, options);
        let mut log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
        log.write(OutputStream::Stdout, b"after\n", time(0));
        log.flush();
        prop_assert!(read(dir.path(), 0, ReadOptions::default()).ends_with(b"after\n"));
    }
}

#[test]
fn a_long_line_is_cut_into_parts_of_16_kib() {
    let dir = tempfile::tempdir().unwrap();
    write_lines(dir.path(), &[&"x".repeat(40_000), "\n"]);
    let text = std::fs::read_to_string(dir.path().join("0.log")).unwrap();
    let lengths: Vec<_> = text
        .lines()
        .filter_map(|line| match record::parse(line.as_bytes()) {
            Some(Record::Output(output)) => Some((output.content.len(), output.ends_line)),
            _ => None,
        })
        .collect();
    assert_eq!(lengths, [(16384, false), (16384, false), (7232, true)]);
}

#[test]
fn a_log_is_rotated_and_its_oldest_files_removed() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits {
        file_bytes: 1000,
        files: 3,
    };
    let mut log = LogWriter::open(dir.path().to_owned(), 0, limits);
    for number in 0..100 {
        log.write(OutputStream::Stdout, format!("line {number:03}\n").as_bytes(), time(0));
        log.flush();
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["0.log", "0.log.1", "0.log.2"]);
    for name in names {
        assert!(std::fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
    }
    let text = read_text(dir.path(), ReadOptions::default());
    let first: usize = text[5..8].parse().unwrap();
    let expected: String = (first..100).map(|number| format!("line {number:03}\n")).collect();
    assert_eq!(text, expected);
    assert!(first > 0);
}

#[test]
fn one_previous_attempt_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    for attempt in 0..3 {
        let mut log = LogWriter::open(dir.path().to_owned(), attempt, Limits::default());
        log.write(OutputStream::Stdout, format!("{attempt}\n").as_bytes(), time(0));
        log.flush();
    }
    assert_eq!(attempts(dir.path()).unwrap(), [1, 2]);
    assert_eq!(read(dir.path(), 1, ReadOptions::default()), b"1\n");
    assert!(has_log(dir.path(), 2) && !has_log(dir.path(), 0));
}

#[test]
fn a_writer_resumed_beyond_the_end_of_the_log_keeps_its_position_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
    log.write(OutputStream::Stdout, b"one\n", time(0));
    log.flush();
    log.resume_at(OutputStream::Stdout, 100);
    assert_eq!(log.position(OutputStream::Stdout), 100);
    log.write(OutputStream::Stdout, b"two\n", time(0));
    log.flush();
    drop(log);
    let log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
    assert_eq!(log.position(OutputStream::Stdout), 104);
    assert_eq!(read(dir.path(), 0, ReadOptions::default()), b"one\ntwo\n");
}

#[test]
fn timestamps_prefixes_and_limits_match_kubectl() {
    let dir = tempfile::tempdir().unwrap();
    write_lines(dir.path(), &["one\n", "tw", "o\n", "three\n", "end"]);
    let options = ReadOptions {
        timestamps: true,
        prefix: "[pod/p/c] ".to_owned(),
        since: Some(time(3)),
        ..ReadOptions::default()
    };
    assert_eq!(
        read_text(dir.path(), options),
        "[pod/p/c] 2027-01-15T08:00:03.000000000Z three\n[pod/p/c] 2027-01-15T08:01:39.000000000Z end"
    );
    let limited = |limit_bytes| {
        let options = ReadOptions {
            limit_bytes: Some(limit_bytes),
            ..ReadOptions::default()
        };
        read_text(dir.path(), options)
    };
    assert_eq!(limited(5), "one\nt");
    assert_eq!(limited(1000), "one\ntwo\nthree\nend");
}

#[test]
fn without_follow_a_log_is_read_up_to_its_end_at_opening() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogWriter::open(dir.path().to_owned(), 0, ENDLESS);
    log.write(OutputStream::Stdout, b"before\n", time(0));
    log.flush();
    let mut reader = LogReader::open(dir.path().to_owned(), 0, ReadOptions::default()).unwrap();
    for _ in 0..20 {
        log.write(OutputStream::Stdout, b"after\n", time(0));
        log.flush();
    }
    let mut text = Vec::new();
    assert_eq!(reader.read(&mut text).unwrap(), Progress::CaughtUp);
    assert_eq!(text, b"before\n");
}

#[test]
fn an_incomplete_record_is_not_shown_and_may_be_truncated() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("0.log");
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    std::fs::write(
        &path,
        "2026-11-21T10:00:00Z stdout F one\n2026-11-21T10:00:00Z stdout F tw",
    )
    .unwrap();
    let mut reader = LogReader::open(dir.path().to_owned(), 0, options).unwrap();
    let mut text = Vec::new();
    assert_eq!(reader.read(&mut text).unwrap(), Progress::CaughtUp);
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(34).unwrap();
    file.write_all_at(b"2026-11-21T10:00:01Z stdout F three\n", 34).unwrap();
    assert_eq!(reader.read(&mut text).unwrap(), Progress::CaughtUp);
    assert_eq!(text, b"one\nthree\n");
}

#[test]
fn an_overlong_line_is_skipped_with_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let record = |content: &str| format!("2026-11-21T10:00:00Z stdout F {content}\n");
    let text = format!("{}{}\n{}", record("one"), "x".repeat(1 << 20), record("two"));
    std::fs::write(dir.path().join("0.log"), text).unwrap();
    assert_eq!(read_text(dir.path(), ReadOptions::default()), "one\ntwo\n");
    let options = ReadOptions {
        tail_lines: Some(2),
        ..ReadOptions::default()
    };
    assert_eq!(read_text(dir.path(), options), "one\ntwo\n");
}

#[tokio::test]
async fn a_log_is_followed_across_rotations_and_restarts_until_the_container_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let limits = Limits {
        file_bytes: 2000,
        files: 5000,
    };
    let expected: String = (0..3000).map(|number| format!("line {number}\n")).collect();
    let text = expected.clone();
    drop(LogWriter::open(path.clone(), 0, limits));
    let (over, is_over) = watch::channel(false);
    let writer = std::thread::spawn(move || {
        for (attempt, lines) in (0..).zip(text.as_bytes().chunks(text.len() / 2 + 1)) {
            let mut log = LogWriter::open(path.clone(), attempt, limits);
            for piece in lines.chunks(37) {
                log.write(OutputStream::Stdout, piece, time(0));
                log.flush();
            }
            log.finish(OutputStream::Stdout, time(0));
        }
        over.send(true).unwrap();
        over
    });
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let reader = LogReader::open(dir.path().to_owned(), 0, options).unwrap();
    let (chunks, mut received) = mpsc::channel(4);
    let follow = tokio::spawn(reader.follow(is_over, chunks));
    let mut all = Vec::new();
    while let Some(chunk) = received.recv().await {
        all.extend(chunk);
    }
    follow.await.unwrap().unwrap();
    drop(writer.join().unwrap());
    assert_eq!(String::from_utf8(all).unwrap(), expected);
}

#[tokio::test]
async fn following_ends_when_the_reader_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    write_lines(dir.path(), &["one\n"]);
    let options = ReadOptions {
        follow: true,
        ..ReadOptions::default()
    };
    let reader = LogReader::open(dir.path().to_owned(), 0, options).unwrap();
    let (_over, is_over) = watch::channel(false);
    let (chunks, mut received) = mpsc::channel(4);
    let follow = tokio::spawn(reader.follow(is_over, chunks));
    assert_eq!(received.recv().await.unwrap(), b"one\n");
    drop(received);
    follow.await.unwrap().unwrap();
}
