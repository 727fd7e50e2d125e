//! A log file of bounded size: old content is dropped, the latest part is kept.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;

use microkube_base::lock::lock;

/// Size at which a new file is started. One previous file is kept.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A log of at most two files of 1 MiB each.
#[derive(Debug)]
pub struct BoundedLog {
    path: PathBuf,
    /// `None` if it could not be opened; the next write tries again.
    file: Option<File>,
    written_bytes: u64,
}

impl BoundedLog {
    /// Starts an empty log.
    #[must_use]
    pub fn begin(path: PathBuf) -> Self {
        let mut log = Self {
            path,
            file: None,
            written_bytes: 0,
        };
        log.file = File::create(&log.path).ok();
        log
    }

    /// Continues an existing log.
    #[must_use]
    pub fn resume(path: PathBuf) -> Self {
        let mut log = Self {
            path,
            file: None,
            written_bytes: 0,
        };
        // The first write tries again and reports the error.
        let _ = log.open();
        log
    }

    fn open(&mut self) -> io::Result<&mut File> {
        let file = File::options().create(true).append(true).open(&self.path)?;
        self.written_bytes = file.metadata()?.len();
        Ok(self.file.insert(file))
    }

    /// Appends to the log; returns whether a new file was started.
    ///
    /// # Errors
    /// If the log cannot be written. The bytes are lost.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let room = usize::try_from(MAX_FILE_BYTES).unwrap_or(usize::MAX);
        let bytes = bytes.get(..room).unwrap_or(bytes);
        if self.file.is_none() {
            self.open()?;
        }
        let is_full = self.written_bytes.saturating_add(bytes.len() as u64) > MAX_FILE_BYTES;
        if is_full {
            // If the rename fails, nothing more is written to the full file.
            std::fs::rename(&self.path, self.path.with_extension("log.1")).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })?;
            self.file = None;
            self.open()?;
        }
        if let Some(file) = &mut self.file {
            let written = file.write_all(bytes);
            self.written_bytes = match written {
                Ok(()) => self.written_bytes.saturating_add(bytes.len() as u64),
                Err(_) => file.metadata().map_or(self.written_bytes, |metadata| metadata.len()),
            };
            written?;
        }
        Ok(is_full)
    }
}

/// A supervisor's log as a writer for `tracing`. Writes never fail: `tracing` would report that on standard error,
/// which is this same file, and panic when that fails too.
#[derive(Debug)]
pub struct SupervisorLog(Mutex<BoundedLog>);

impl SupervisorLog {
    /// Continues the log of the previous supervisor.
    #[must_use]
    pub fn resume(path: PathBuf) -> Self {
        Self(Mutex::new(BoundedLog::resume(path)))
    }
}

impl Write for &SupervisorLog {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = lock(&self.0);
        if let (Ok(true), Some(file)) = (log.append(line), &log.file) {
            // Other output, such as a panic message, goes to the same file.
            let _ = nix::unistd::dup2_stderr(file);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(dir: &tempfile::TempDir) -> Vec<u64> {
        let entries = std::fs::read_dir(dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn a_log_never_exceeds_two_files_across_supervisors(
            writes in proptest::collection::vec((0_usize..3_000_000, any::<bool>()), 1..24),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a.b_web_uid.supervisor.log");
            let mut log = BoundedLog::resume(path.clone());
            for (length, is_restarted) in writes {
                if is_restarted {
                    log = BoundedLog::resume(path.clone());
                }
                let mut line = vec![b'x'; length];
                line.push(b'\n');
                log.append(&line).unwrap();
                let sizes = sizes(&dir);
                prop_assert!(sizes.len() <= 2 && sizes.iter().all(|size| *size <= MAX_FILE_BYTES), "{sizes:?}");
            }
        }
    }

    #[test]
    fn the_end_of_the_log_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.log");
        let mut log = BoundedLog::resume(path.clone());
        for number in 0..200_000 {
            log.append(format!("line {number}\n").as_bytes()).unwrap();
        }
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 199999\n"));
        drop(log);
        assert!(BoundedLog::resume(path.clone()).file.is_some());
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("line 199999\n"));
    }

    #[test]
    fn a_supervisor_log_on_a_full_disk_or_missing_path_causes_no_error() {
        for path in ["/dev/full", "/nonexistent/supervisor.log"] {
            let log = SupervisorLog::resume(path.into());
            assert_eq!((&log).write(b"an error\n").unwrap(), 9);
            (&log).write_all(b"another\n").unwrap();
        }
        assert!(BoundedLog::resume("/dev/full".into()).append(b"lost").is_err());
    }

    #[test]
    fn writing_resumes_after_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("later/guest.log");
        let mut log = BoundedLog::begin(path.clone());
        assert!(log.append(b"lost\n").is_err());
        std::fs::create_dir(dir.path().join("later")).unwrap();
        log.append(b"kept\n").unwrap();
        assert_eq!(std::fs::read_to_string(path).unwrap(), "kept\n");
    }
}
