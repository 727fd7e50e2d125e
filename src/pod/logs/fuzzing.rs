//! Entry point of the fuzz target for log files on disk.

use jiff::Timestamp;

use super::{Limits, LogReader, LogWriter, Progress, ReadOptions};
use crate::pod::supervisor_protocol::OutputStream;

/// Reads the bytes as a log, forwards and backwards, and appends to it.
pub fn container_log(bytes: &[u8]) {
    let Ok(dir) = tempfile::tempdir() else { return };
    if std::fs::write(dir.path().join("0.log"), bytes).is_err() {
        return;
    }
    for tail_lines in [None, Some(3)] {
        let options = ReadOptions {
            tail_lines,
            timestamps: true,
            ..ReadOptions::default()
        };
        let Ok(mut log) = LogReader::open(dir.path().to_owned(), 0, options) else {
            return;
        };
        while let Ok(Progress::More) = log.read(&mut Vec::new()) {}
    }
    let mut log = LogWriter::open(dir.path().to_owned(), 0, Limits::default());
    let before = log.position(OutputStream::Stderr);
    log.write(OutputStream::Stderr, b"line\n", Timestamp::UNIX_EPOCH);
    log.flush();
    assert_eq!(log.position(OutputStream::Stderr), before.saturating_add(5));
}
