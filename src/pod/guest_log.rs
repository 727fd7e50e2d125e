//! The log of a Pod's machine (serial console, guest kernel, agent), kept on disk for diagnosis.
//!
//! All of it comes from the guest, so its size is bounded: the last part stays, the first is forgotten.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// How much is kept, bytes; up to twice as much during a rotation.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// How much of the end is kept in memory, for error messages.
const TAIL_BYTES: usize = 4096;

/// A bounded log file with its end in memory.
#[derive(Debug)]
pub struct GuestLog {
    path: PathBuf,
    file: File,
    written_bytes: u64,
    tail: Vec<u8>,
}

impl GuestLog {
    /// Starts a log at `path`.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: File::create(path)?,
            written_bytes: 0,
            tail: Vec::new(),
        })
    }

    /// Appends to the log. A file that cannot be written is no reason to end the Pod: the end in memory is kept anyway.
    pub fn append(&mut self, bytes: &[u8]) {
        let keep = bytes.len().saturating_sub(TAIL_BYTES);
        self.tail.extend_from_slice(bytes.get(keep..).unwrap_or_default());
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        if let Err(error) = self.write(bytes) {
            tracing::warn!("cannot write the guest's log {}: {error}", self.path.display());
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.written_bytes > MAX_FILE_BYTES {
            std::fs::rename(&self.path, self.path.with_extension("log.1"))?;
            self.file = File::create(&self.path)?;
            self.written_bytes = 0;
        }
        self.file.write_all(bytes)?;
        self.written_bytes += bytes.len() as u64;
        Ok(())
    }

    /// The last lines, at most `count`, made safe for a terminal.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<_> = text
            .lines()
            .map(printable)
            .filter(|line| !line.trim().is_empty())
            .collect();
        lines
            .get(lines.len().saturating_sub(count)..)
            .unwrap_or_default()
            .to_vec()
    }

    /// The line that says why the guest's kernel gave up, if there is one.
    #[must_use]
    pub fn panic_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.tail);
        text.lines()
            .find(|line| line.contains("Kernel panic - not syncing"))
            .map(printable)
    }
}

/// What the guest writes must not be able to control the terminal of whoever reads it.
fn printable(line: &str) -> String {
    line.trim_end()
        .chars()
        .map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log() -> (tempfile::TempDir, GuestLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = GuestLog::create(&dir.path().join("guest.log")).unwrap();
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
    fn a_guest_that_floods_its_log_fills_no_disk_and_no_memory() {
        let (dir, mut log) = log();
        for _ in 0..100 {
            log.append(&vec![b'x'; 100_000]);
        }
        let on_disk: u64 = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().metadata().unwrap().len())
            .sum();
        assert!(on_disk <= 3 * MAX_FILE_BYTES, "{on_disk}");
        assert!(log.tail.len() <= TAIL_BYTES);
    }
}
