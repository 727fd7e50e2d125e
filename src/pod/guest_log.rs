//! The log of a Pod's VM (serial console, guest kernel, agent), kept on disk for diagnosis.
//!
//! All of it comes from the guest, so its size is bounded: only the latest part is kept.

use std::path::PathBuf;

use super::bounded_log::BoundedLog;
use super::guest_text::printable;
use crate::state::{Paths, PodRecord};

/// How many bytes from the end are kept in memory, for error messages.
const TAIL_BYTES: usize = 4096;

/// Path of the VM's log, next to its supervisor's. The file outlives the Pod.
#[must_use]
pub fn path(paths: &Paths, record: &PodRecord) -> PathBuf {
    paths
        .logs()
        .join(format!("{}_{}_{}.log", record.namespace, record.name, record.uid))
}

/// A bounded log file, with its end in memory.
#[derive(Debug)]
pub struct GuestLog {
    path: PathBuf,
    log: BoundedLog,
    /// Whether a failed write was already reported.
    warned: bool,
    tail: Vec<u8>,
    disk_failure: Option<String>,
}

impl GuestLog {
    /// Starts a log at `path`.
    #[must_use]
    pub fn begin(path: PathBuf) -> Self {
        Self {
            log: BoundedLog::begin(path.clone()),
            path,
            warned: false,
            tail: Vec::new(),
            disk_failure: None,
        }
    }

    /// Forgets the tail in memory: a new VM has started, and it belongs to the previous one.
    pub fn begin_machine(&mut self) {
        self.tail.clear();
        self.disk_failure = None;
    }

    /// Records the host's error message for a failed write to the VM's disk.
    pub fn note_disk_failure(&mut self, message: String) {
        self.disk_failure = Some(message);
    }

    /// The recorded disk error.
    #[must_use]
    pub fn disk_failure(&self) -> Option<&str> {
        self.disk_failure.as_deref()
    }

    /// Appends to the log. A failed write does not end the Pod; the end of the log stays in memory.
    pub fn append(&mut self, bytes: &[u8]) {
        let keep = bytes.len().saturating_sub(TAIL_BYTES);
        self.tail.extend_from_slice(&bytes[keep..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        match self.log.append(bytes) {
            Ok(_) => self.warned = false,
            // Warn once until a write succeeds again: every line would repeat it.
            Err(error) => {
                if !std::mem::replace(&mut self.warned, true) {
                    tracing::warn!("cannot write the guest's log {}: {error}", self.path.display());
                }
            }
        }
    }

    /// Up to `count` of the last lines, made safe for a terminal.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<_> = text
            .lines()
            .map(printable)
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// The guest kernel's panic message, if there is one.
    #[must_use]
    pub fn panic_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        text.lines()
            .find(|line| line.contains("Kernel panic - not syncing"))
            .map(printable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, GuestLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = GuestLog::begin(dir.path().join("guest.log"));
        (dir, log)
    }

    #[test]
    fn the_last_lines_are_found_without_escape_sequences() {
        let (_dir, mut log) = log();
        log.append(b"one\ntwo\r\n\x1b[31mthree\n");
        assert_eq!(log.last_lines(2), ["two", "\u{fffd}[31mthree"]);
    }

    #[test]
    fn a_panic_is_found_in_the_log() {
        let (_dir, mut log) = log();
        log.append(b"[    1.0] Kernel panic - not syncing: Attempted to kill init!\n[    1.0] CPU: 0\n");
        assert_eq!(
            log.panic_line().unwrap(),
            "[    1.0] Kernel panic - not syncing: Attempted to kill init!"
        );
    }

    #[test]
    fn a_guest_that_floods_its_log_fills_neither_disk_nor_memory() {
        let (dir, mut log) = log();
        for _ in 0..100 {
            log.append(&vec![b'x'; 100_000]);
        }
        let on_disk: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert!(on_disk <= 2 << 20, "{on_disk}");
        assert!(log.tail.len() <= TAIL_BYTES);
    }
}
