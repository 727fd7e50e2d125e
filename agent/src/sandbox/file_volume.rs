//! File volumes: configMap, secret, downwardAPI and projected volumes. The host computes their files and sends them in
//! parts.
//!
//! Contents may be Secrets. They exist in the guest's memory only, which has no swap (`CONFIG_SWAP` is off), and never
//! appear in errors or in the log.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use microkube_protocol::messages::{FileProjection, WriteFileVolumeRequest};
use microkube_protocol::{MAX_FILE_BYTES, MAX_VOLUME_BYTES, MAX_VOLUME_FILES};

use super::atomic_writer::{AtomicWriter, Files};
use crate::lock::lock;
use crate::request_field::{self, InvalidRequest};

/// The permission bits of a file.
const MAX_MODE: u32 = 0o777;

/// Why files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// A volume whose files the host sends.
#[derive(Debug)]
pub struct FileVolume {
    writer: AtomicWriter,
    received: Mutex<Received>,
    is_written: AtomicBool,
}

impl FileVolume {
    /// A volume with this root, an empty directory.
    pub fn new(directory: PathBuf, fs_group: Option<u32>) -> Self {
        Self {
            writer: AtomicWriter::new(directory, fs_group),
            received: Mutex::default(),
            is_written: AtomicBool::default(),
        }
    }

    /// The volume's root.
    pub fn directory(&self) -> &Path {
        self.writer.directory()
    }

    /// Whether the files have been written once.
    pub fn is_written(&self) -> bool {
        self.is_written.load(Ordering::Relaxed)
    }

    /// Adds a part of the files, and writes all files after the last part. Blocks, because there may be thousands of
    /// files.
    pub fn receive(&self, request: WriteFileVolumeRequest) -> Result<(), WriteError> {
        // Hold the lock until the files are written, so that writes do not overlap.
        let mut received = lock(&self.received);
        let added = received.add(request.part, request.files);
        if added.is_err() || request.last {
            let files = std::mem::take(&mut *received).files;
            added?;
            self.writer.write(&files).map_err(WriteError::Failed)?;
            self.is_written.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The parts that have been received.
#[derive(Debug, Default)]
struct Received {
    next_part: u32,
    files: Files,
    total_bytes: usize,
}

impl Received {
    fn add(&mut self, part: u32, files: Vec<FileProjection>) -> Result<(), InvalidRequest> {
        if part == 0 {
            *self = Self::default();
        }
        if part != self.next_part {
            let problem = format!("is {part}, but the next one is {}", self.next_part);
            return Err(InvalidRequest::new("part", problem));
        }
        self.next_part = self.next_part.saturating_add(1);
        files.into_iter().try_for_each(|file| self.add_file(file))
    }

    fn add_file(&mut self, file: FileProjection) -> Result<(), InvalidRequest> {
        request_field::projected_path(&file.path)?;
        if file.mode > MAX_MODE {
            let problem = format!("is not between 0 and {MAX_MODE:#o}: {:#o}", file.mode);
            return Err(InvalidRequest::new("files.mode", problem));
        }
        self.total_bytes = self.total_bytes.saturating_add(file.content.len());
        for (value, limit, what) in [
            (file.content.len(), MAX_FILE_BYTES, "bytes in one file"),
            (self.total_bytes, MAX_VOLUME_BYTES, "bytes"),
            (self.files.len().saturating_add(1), MAX_VOLUME_FILES, "files"),
        ] {
            if value > limit {
                return Err(InvalidRequest::new("files", format!("has more than {limit} {what}")));
            }
        }
        let path = file.path.clone();
        if self.files.insert(path, file).is_some() {
            return Err(InvalidRequest::new("files.path", "appears twice"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::test_directory::TestDirectory;

    fn file(path: &str, content: &[u8]) -> FileProjection {
        FileProjection {
            path: path.to_owned(),
            content: content.to_vec(),
            mode: 0o644,
            ..Default::default()
        }
    }

    fn part(part: u32, last: bool, files: &[FileProjection]) -> WriteFileVolumeRequest {
        WriteFileVolumeRequest {
            volume: "config".to_owned(),
            part,
            last,
            files: files.to_vec(),
            ..Default::default()
        }
    }

    fn volume(directory: &TestDirectory) -> FileVolume {
        FileVolume::new(directory.path().to_owned(), None)
    }

    #[test]
    fn files_appear_with_the_last_part() {
        let directory = TestDirectory::new("file-volume-parts");
        let volume = volume(&directory);
        volume.receive(part(0, false, &[file("a", b"1")])).unwrap();
        assert!(!volume.is_written());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        volume.receive(part(1, true, &[file("b/c", b"2")])).unwrap();
        assert!(volume.is_written());
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"1");
        assert_eq!(fs::read(directory.join("b/c")).unwrap(), b"2");
    }

    #[test]
    fn a_new_request_discards_the_parts_of_an_incomplete_one() {
        let directory = TestDirectory::new("file-volume-again");
        let volume = volume(&directory);
        volume.receive(part(0, false, &[file("a", b"1")])).unwrap();
        volume.receive(part(0, true, &[file("b", b"2")])).unwrap();
        assert!(!directory.join("a").exists());
        assert!(directory.join("b").exists());
        let missing = volume.receive(part(1, true, &[])).unwrap_err();
        assert_eq!(missing.to_string(), "part is 1, but the next one is 0");
        assert!(directory.join("b").exists());
    }

    #[test]
    fn a_volume_without_files_is_written_as_well() {
        let directory = TestDirectory::new("file-volume-empty");
        let volume = volume(&directory);
        volume.receive(part(0, true, &[])).unwrap();
        assert!(volume.is_written());
        assert_eq!(fs::read_dir(directory.join("..data")).unwrap().count(), 0);
    }

    #[test]
    fn invalid_files_are_refused_and_change_nothing() {
        let directory = TestDirectory::new("file-volume-invalid");
        let volume = volume(&directory);
        volume.receive(part(0, true, &[file("a", b"1")])).unwrap();
        let too_long = vec![0; MAX_FILE_BYTES + 1];
        let of_any_mode = FileProjection {
            mode: 0o4755,
            ..file("x", b"")
        };
        for (files, error) in [
            (
                vec![file("../x", b"")],
                "files.path is not a path in a volume: \"../x\"",
            ),
            (vec![of_any_mode], "files.mode is not between 0 and 0o777: 0o4755"),
            (vec![file("x", b""), file("x", b"")], "files.path appears twice"),
            (
                vec![file("x", &too_long)],
                "files has more than 3145728 bytes in one file",
            ),
        ] {
            let refused = volume.receive(part(0, true, &files)).unwrap_err();
            assert_eq!(refused.to_string(), error);
        }
        assert_eq!(fs::read(directory.join("a")).unwrap(), b"1");
    }

    #[test]
    fn the_files_of_all_parts_together_are_bounded() {
        let directory = TestDirectory::new("file-volume-bounds");
        let volume = volume(&directory);
        let large = vec![0; MAX_FILE_BYTES];
        let refused = (0..).find_map(|number| {
            let part = part(number, false, &[file(&format!("f{number}"), &large)]);
            volume.receive(part).err().map(|error| (number as usize, error))
        });
        let (count, error) = refused.unwrap();
        assert_eq!(count, MAX_VOLUME_BYTES / MAX_FILE_BYTES);
        assert_eq!(error.to_string(), "files has more than 33554432 bytes");

        let many: Vec<_> = (0..=MAX_VOLUME_FILES)
            .map(|number| file(&format!("f{number}"), b""))
            .collect();
        let error = volume.receive(part(0, false, &many)).unwrap_err();
        assert_eq!(error.to_string(), "files has more than 65536 files");
    }

    #[test]
    fn neither_debug_nor_errors_show_contents() {
        let directory = TestDirectory::new("file-volume-secret");
        let volume = volume(&directory);
        volume.receive(part(0, false, &[file("password", b"hunter2")])).unwrap();
        let shown = format!("{volume:?}");
        assert!(shown.contains("password") && !shown.contains("hunter2") && !shown.contains("104, 117"));
        let error = volume
            .receive(part(1, true, &[file("password/x", b"hunter3")]))
            .unwrap_err();
        assert_eq!(error.to_string(), "cannot write password: File exists (os error 17)");
    }
}
