//! Files that are replaced whole, and locks on files.
//!
//! A reader sees the old content or the new one, never a part, whatever dies in between.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::format_version::{self, FormatError, RecordFormat};

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried: "write", "read", "lock".
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// The content is not what was written there.
    #[error("{path} is damaged")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A later build wrote it in a format of which this one knows nothing.
    #[error(
        "{path} was written by a newer microkube, in version {found} of its format; this one knows version {known} and older ones"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// The version that it says.
        found: u64,
        /// The latest version that is understood.
        known: u32,
    },
    /// It would be too long to be read again.
    #[error("cannot write {path}: its {bytes} bytes are more than the {MAX_RECORD_BYTES} that are read of a record")]
    TooLong {
        /// The file, whose old content is still there.
        path: PathBuf,
        /// How much was to be written.
        bytes: usize,
    },
    /// There is something else than a file of microkube's.
    #[error("{path} is damaged: it is {found}")]
    NoRecord {
        /// Where it should be.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
}

impl RecordError {
    /// The file.
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

    /// The file whose content is not what was written there.
    #[must_use]
    pub fn damaged_path(&self) -> Option<&Path> {
        match self {
            Self::Damaged { path, .. } | Self::NoRecord { path, .. } => Some(path),
            Self::Io { .. } | Self::TooLong { .. } | Self::Newer { .. } => None,
        }
    }

    /// The file that a newer microkube wrote.
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

/// Longer than any record: those of Pods have a manifest of at most 4 MiB, and Secrets.
pub(crate) const MAX_RECORD_BYTES: u64 = 64 << 20;

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RecordError {
    let path = path.to_owned();
    move |source| RecordError::Io { action, path, source }
}

/// How long something on disk is to last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// Until the host stops, however it does.
    Boot,
    /// Also after the power of the host was cut.
    Pod,
}

/// Replaces a file's content atomically and durably.
///
/// # Errors
/// [`RecordError::Io`] or [`RecordError::TooLong`]; the old content is then still there.
pub fn replace_file(path: &Path, content: &[u8]) -> Result<(), RecordError> {
    replace_file_for(Lifetime::Pod, path, content)
}

/// Replaces a file's content atomically, whatever dies meanwhile; with [`Lifetime::Boot`] that may not be the host.
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
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(dir)
        .map_err(io("write", path))?;
    file.write_all(content).map_err(io("write", path))?;
    if lifetime == Lifetime::Pod {
        note_sync();
        file.as_file().sync_data().map_err(io("write", path))?;
    }
    file.persist(path).map_err(|error| io("write", path)(error.error))?;
    match lifetime {
        Lifetime::Pod => sync_dir(dir),
        Lifetime::Boot => Ok(()),
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// [`RecordError::Io`].
pub fn sync_dir(dir: &Path) -> Result<(), RecordError> {
    note_sync();
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io("write", dir))
}

#[cfg(test)]
thread_local! {
    /// How often this thread has waited for the disk to have a record.
    pub(super) static SYNCS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

fn note_sync() {
    #[cfg(test)]
    SYNCS.set(SYNCS.get() + 1);
}

/// [`replace_file`] with a record, which says in which version of its format it is.
///
/// # Errors
/// See [`replace_file`].
pub fn replace_record<T: RecordFormat>(path: &Path, record: &T) -> Result<(), RecordError> {
    replace_record_for(Lifetime::Pod, path, record)
}

/// [`replace_file_for`] with a record.
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

/// Reads a record of this version of its format, or of one before; `None` when there is no such file.
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

/// Fails if a file says that it is of a later version than `known`. A file that cannot be read or understood says nothing.
pub(super) fn refuse_newer(path: &Path, known: u32) -> Result<(), RecordError> {
    let Ok(Some(content)) = read_bounded(path) else {
        return Ok(());
    };
    match format_version::version_of(&content, known) {
        Err(error @ FormatError::Newer { .. }) => Err(RecordError::of_format(path)(error)),
        Ok(_) | Err(FormatError::Damaged(_)) => Ok(()),
    }
}

/// The content of a regular file, of which nothing is read that is longer than a record can be. Whatever lies there instead, opening
/// it does not wait.
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
        return Err(no_record("no regular file"));
    }
    let mut content = Vec::new();
    file.take(MAX_RECORD_BYTES + 1)
        .read_to_end(&mut content)
        .map_err(io("read", path))?;
    if content.len() as u64 > MAX_RECORD_BYTES {
        return Err(no_record("longer than any record"));
    }
    Ok(Some(content))
}

/// A file on which this process holds an exclusive `flock`. It is released with the last descriptor, so by the kernel when
/// the process dies.
///
/// The lock belongs to the open file, not to the process: a child that inherits the descriptor holds it too.
#[derive(Debug)]
pub struct LockedFile(OwnedFd);

impl LockedFile {
    /// Takes over a descriptor inherited from the process that took the lock.
    #[must_use]
    pub fn from_inherited(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for LockedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits for an exclusive lock on a file, making the file if it is missing.
///
/// # Errors
/// [`RecordError::Io`].
pub fn lock_exclusive(path: &Path) -> Result<LockedFile, RecordError> {
    let file = open_lock(path)?;
    flock(&file, libc::LOCK_EX).map_err(io("lock", path))?;
    Ok(LockedFile(file.into()))
}

/// Takes an exclusive lock on a file if nobody holds one; `None` if somebody does.
///
/// # Errors
/// [`RecordError::Io`].
pub fn try_lock_exclusive(path: &Path) -> Result<Option<LockedFile>, RecordError> {
    let file = open_lock(path)?;
    match flock(&file, libc::LOCK_EX | libc::LOCK_NB) {
        Ok(()) => Ok(Some(LockedFile(file.into()))),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(io("lock", path)(error)),
    }
}

// nix's own wrapper unlocks when it is dropped, which would take the lock from a child that inherited it.
fn flock(file: &File, operation: i32) -> std::io::Result<()> {
    loop {
        // SAFETY: flock(2) takes two integers; the descriptor is open while `file` lives.
        if unsafe { libc::flock(file.as_raw_fd(), operation) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn open_lock(path: &Path) -> Result<File, RecordError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(io("lock", path))
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
    fn a_record_of_a_newer_version_is_refused_by_its_name_and_is_not_damaged() {
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
            "{} was written by a newer microkube, in version 4 of its format; this one knows version 3 and older ones",
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
    fn what_is_no_record_is_refused_without_being_read_or_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        let refused = || read(&path).unwrap_err();
        std::fs::create_dir(&path).unwrap();
        assert!(refused().to_string().ends_with("is damaged: it is no regular file"));
        std::fs::remove_dir(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(refused().damaged_path(), Some(path.as_path()));
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(refused().damaged_path(), Some(path.as_path()));
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert!(
            refused()
                .to_string()
                .ends_with("is damaged: it is longer than any record")
        );
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("record.json");
        replace_record(&path, &Numbers { numbers: vec![1] }).unwrap();
        let error = replace_file(&path, &vec![b' '; 1 + usize::try_from(MAX_RECORD_BYTES).unwrap()]).unwrap_err();
        assert!(matches!(error, RecordError::TooLong { .. }), "{error}");
        assert_eq!(read(&path).unwrap(), Some(vec![1]));
    }

    #[test]
    fn a_lock_is_held_once_and_freed_when_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = try_lock_exclusive(&path).unwrap();
        assert!(held.is_some());
        assert!(try_lock_exclusive(&path).unwrap().is_none());
        drop(held);
        assert!(try_lock_exclusive(&path).unwrap().is_some());
    }
}
