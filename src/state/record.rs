//! Files that are replaced as a whole, and file locks.
//!
//! A reader sees either the old or the new content, never a part, whichever process dies.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub use microkube_base::file_lock::LockedFile;
use microkube_base::file_lock::{self, Sharing};
use microkube_base::replaced_file;

use super::format_version::{self, FormatError, RecordFormat};

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The operation: "write", "read", "lock".
        action: &'static str,
        /// Path of the file.
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged.
    #[error("{path} is damaged")]
    Damaged {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// A newer build wrote the file, in an unknown format version.
    #[error(
        "{path} was written by a newer microkube, in format version {found}; this one reads versions up to {known}"
    )]
    Newer {
        path: PathBuf,
        /// The file's version.
        found: u64,
        /// The latest known version.
        known: u32,
    },
    /// The new content is too long to be read again.
    #[error("cannot write {path}: {bytes} bytes exceed the limit of {MAX_RECORD_BYTES} for a record")]
    TooLong {
        /// The file, whose old content is unchanged.
        path: PathBuf,
        /// Length of the new content.
        bytes: usize,
    },
    /// The path does not refer to a regular file.
    #[error("{path} is damaged: it is {found}")]
    NoRecord {
        /// The path.
        path: PathBuf,
        /// What was found instead.
        found: &'static str,
    },
}

impl RecordError {
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. }
            | Self::Damaged { path, .. }
            | Self::Newer { path, .. }
            | Self::TooLong { path, .. }
            | Self::NoRecord { path, .. } => path,
        }
    }

    /// The damaged file, if that is the error.
    #[must_use]
    pub fn damaged_path(&self) -> Option<&Path> {
        match self {
            Self::Damaged { path, .. } | Self::NoRecord { path, .. } => Some(path),
            Self::Io { .. } | Self::TooLong { .. } | Self::Newer { .. } => None,
        }
    }

    /// The file of a newer microkube, if that is the error.
    #[must_use]
    pub fn newer_path(&self) -> Option<&Path> {
        match self {
            Self::Newer { path, .. } => Some(path),
            Self::Io { .. } | Self::Damaged { .. } | Self::TooLong { .. } | Self::NoRecord { .. } => None,
        }
    }

    fn of_format(path: &Path) -> impl FnOnce(FormatError) -> Self {
        let path = path.to_owned();
        move |error| match error {
            FormatError::Newer { found, known } => Self::Newer { path, found, known },
            FormatError::Damaged(source) => Self::Damaged { path, source },
        }
    }
}

/// Longer than any record: a Pod's record contains a manifest of at most 4 MiB, and Secrets.
pub(crate) const MAX_RECORD_BYTES: u64 = 64 << 20;

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io { action, path, source }
}

/// How durable data on disk must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// The data may be lost when the host stops or crashes.
    Boot,
    /// The data must survive a power cut.
    Pod,
}

/// Replaces a file's content atomically and durably.
///
/// # Errors
/// [`RecordError::Io`] or [`RecordError::TooLong`]; the old content is then unchanged.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    replace_file_for(Lifetime::Pod, path, content)
}

/// Replaces a file's content atomically. The replacement survives the death of any process; with [`Lifetime::Boot`] it
/// may not survive a crash of the host.
///
/// # Errors
/// See [`replace_file`].
pub fn replace_file_for(lifetime: Lifetime, path: &Path, content: &[u8]) -> Result<(), RecordError> {
    if content.len() as u64 > MAX_RECORD_BYTES {
        return Err(RecordError::TooLong {
            path: path.to_owned(),
            bytes: content.len(),
        });
    }
    match lifetime {
        Lifetime::Pod => {
            // The content, and the file's name.
            note_sync();
            note_sync();
            replaced_file::replace(path, content)
        }
        Lifetime::Boot => replaced_file::replace_unsynced(path, content),
    }
    .map_err(io("write", path))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// [`RecordError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), RecordError> {
    note_sync();
    replaced_file::sync_directory(dir).map_err(io("write", dir))
}

#[cfg(test)]
thread_local! {
    /// How many times this thread has waited for a record to reach the disk.
    pub(super) static SYNCS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn note_sync() {
    #[cfg(test)]
    SYNCS.set(SYNCS.get() + 1);
}

/// Like [`replace_file`], for a record with its format version.
///
/// # Errors
/// See [`replace_file`].
pub fn replace_record<T: RecordFormat>(path: &Path, record: &T) -> Result<(), RecordError> {
    replace_record_for(Lifetime::Pod, path, record)
}

/// Like [`replace_file_for`], for a record.
///
/// # Errors
/// See [`replace_file`].
pub fn replace_record_for<T: RecordFormat>(lifetime: Lifetime, path: &Path, record: &T) -> Result<(), RecordError> {
    let content = format_version::encode_pretty(record).map_err(|source| RecordError::Damaged {
        path: path.to_owned(),
        source,
    })?;
    replace_file_for(lifetime, path, &content)
}

/// Reads a record of this or an earlier version of its format; `None` if the file does not exist.
///
/// # Errors
/// See [`RecordError`].
pub fn read_record<T: RecordFormat>(path: &Path) -> Result<Option<T>, RecordError> {
    let Some(content) = read_bounded(path)? else {
        return Ok(None);
    };
    format_version::decode(&content)
        .map(Some)
        .map_err(RecordError::of_format(path))
}

/// Fails if a file's version is later than `known`. A file that cannot be read or decoded passes.
pub(super) fn refuse_newer(path: &Path, known: u32) -> Result<(), RecordError> {
    let Ok(Some(content)) = read_bounded(path) else {
        return Ok(());
    };
    match format_version::version_of(&content, known) {
        Err(error @ FormatError::Newer { .. }) => Err(RecordError::of_format(path)(error)),
        Ok(_) | Err(FormatError::Damaged(_)) => Ok(()),
    }
}

/// The content of a regular file, if it is not too long for a record. Opening never blocks, whatever the path refers
/// to.
fn read_bounded(path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
    let no_record = |found| RecordError::NoRecord {
        path: path.to_owned(),
        found,
    };
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io("read", path)(error)),
    };
    if !file.metadata().map_err(io("read", path))?.is_file() {
        return Err(no_record("not a regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_RECORD_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(io("read", path))?;
    if content.len() as u64 > MAX_RECORD_BYTES {
        return Err(no_record("too long for a record"));
    }
    Ok(Some(content))
}

/// Waits for an exclusive lock on a file, creating the file if it is missing.
///
/// # Errors
/// [`RecordError::Io`].
pub fn lock_exclusive(path: &Path) -> Result<LockedFile, RecordError> {
    file_lock::lock(path, Sharing::Exclusive).map_err(io("lock", path))
}

/// Tries to take an exclusive lock on a file; `None` if another process holds it.
///
/// # Errors
/// [`RecordError::Io`].
pub fn try_lock_exclusive(path: &Path) -> Result<Option<LockedFile>, RecordError> {
    file_lock::try_lock(path, Sharing::Exclusive).map_err(io("lock", path))
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Numbers {
        numbers: Vec<u32>,
    }

    impl RecordFormat for Numbers {
        const VERSION: u32 = 3;
    }

    fn read(path: &Path) -> Result<Option<Vec<u32>>, RecordError> {
        Ok(read_record::<Numbers>(path)?.map(|record| record.numbers))
    }

    #[test]
    fn a_record_of_a_newer_version_is_refused_by_name_and_not_as_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        for version in [0, 1, 3] {
            std::fs::write(&path, format!("{{\"version\": {version}, \"numbers\": [7]}}")).unwrap();
            assert_eq!(read(&path).unwrap(), Some(vec![7]));
            refuse_newer(&path, 3).unwrap();
        }
        std::fs::write(&path, r#"{"anything": "else", "version": 4}"#).unwrap();
        let error = read(&path).unwrap_err();
        let said = format!(
            "{} was written by a newer microkube, in format version 4; this one reads versions up to 3",
            path.display()
        );
        assert_eq!(error.to_string(), said);
        assert_eq!(refuse_newer(&path, 3).unwrap_err().to_string(), said);
        assert_eq!(error.newer_path(), Some(path.as_path()));
        assert_eq!(error.damaged_path(), None);
    }

    #[test]
    fn a_record_is_read_back_as_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        assert_eq!(read(&path).unwrap(), None);
        replace_record(&path, &Numbers { numbers: vec![1] }).unwrap();
        replace_record(&path, &Numbers { numbers: vec![2, 3] }).unwrap();
        assert_eq!(read(&path).unwrap(), Some(vec![2, 3]));
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"version\": 3"), "{text}");
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_damaged_record_names_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        std::fs::write(&path, "{").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().contains("record.json is damaged"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_a_record_is_refused_without_reading_or_blocking() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let refused = || read(&path).unwrap_err();
        std::fs::create_dir(&path).unwrap();
        assert!(refused().to_string().ends_with("is damaged: it is not a regular file"));
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused().damaged_path(), Some(path.as_path()));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(refused().damaged_path(), Some(path.as_path()));
        std::fs::remove_file(&path).unwrap();
        std::fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(
            refused()
                .to_string()
                .ends_with("is damaged: it is too long for a record")
        );
    }

    #[test]
    fn a_record_too_long_to_be_read_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        replace_record(&path, &Numbers { numbers: vec![1] }).unwrap();
        let error = replace_file(&path, &vec![b' '; 1 + usize::try_from(MAX_RECORD_BYTES).unwrap()]).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { .. }), "{error}");
        assert_eq!(read(&path).unwrap(), Some(vec![1]));
    }
}
