//! The journal: one line for each number used since the host booted, with the changed object. The journal determines
//! the next number, and shows which objects have changed since a list.
//!
//! The journal is not synced, because only processes depend on it, and they do not outlive the page cache. A journal is
//! valid for one boot, and only if `counter.json` names it. A writer appends its line before it changes the object, so
//! a line means that the object may have changed; the object itself shows whether it has. Everything in this module
//! requires the store's lock.
//!
//! ```text
//! changes         the current file: a head, then lines
//! changes.old     the file before it
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use microkube_base::private_directory;
use serde::{Deserialize, Serialize};

use crate::counter::Counter;
use crate::disk::Directory;
use crate::error::StoreError;
use crate::key::Key;

const FILE: &str = "changes";
const OLD_FILE: &str = "changes.old";
/// Maximum length of a file that is continued.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maximum length of a head or line. Names have at most 253 bytes, or twice that when escaped.
const MAX_LINE_BYTES: usize = 2 << 10;
/// Number of bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;

/// A line: a number that was used, and the change that used it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub version: u64,
    /// [`crate::Resource::qualified_plural`]
    pub resource: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// UID of an object that is kept outside of the store's files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// Whether the change removes the object.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl Change {
    pub(crate) fn key(&self) -> Key {
        Key {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// ID of the journal, which all of its files have.
    id: String,
    boot: String,
    /// The last number used before the first line.
    start: u64,
}

/// The directory of the journal, and the boot to which a valid journal belongs.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    directory: PathBuf,
    boot: String,
}

/// A valid file of the journal.
#[derive(Debug)]
struct JournalFile {
    file: File,
    head: Head,
    /// Length of the head's line.
    first: u64,
    /// Length up to the last complete line.
    end: u64,
    length: u64,
}

/// The journal, open to a holder of the exclusive lock.
#[derive(Debug)]
pub(crate) struct Writer<'j> {
    journal: &'j Journal,
    file: JournalFile,
    last: u64,
}

/// A reader's position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Position {
    /// All changes up to this number have been read.
    pub version: u64,
    /// The offset of the next line, in the file with this start.
    place: Option<(u64, u64)>,
}

impl Position {
    pub(crate) fn after(version: u64) -> Self {
        Self { version, place: None }
    }
}

/// The result of reading.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    /// The next changes, oldest first; empty if there are no more.
    Changes(Vec<(Change, Position)>),
    /// The journal no longer has all changes after the position.
    Gap,
}

impl Journal {
    pub(crate) fn new(directory: PathBuf) -> io::Result<Self> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        Ok(Self {
            directory,
            boot: boot.trim().to_owned(),
        })
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn error(&self, action: &'static str) -> impl FnOnce(io::Error) -> StoreError + use<> {
        StoreError::io(action, &self.path())
    }

    /// The last number used.
    pub(crate) fn last(&self, counter: &Counter) -> Result<u64, StoreError> {
        let current = self.current(counter).map_err(self.error("read"))?;
        // Without a journal, the whole block may have been used.
        Ok(current.map_or(counter.reserved, |(_, last)| last))
    }

    /// The current file and the last number in it, if the file is intact and belongs to this counter.
    fn current(&self, counter: &Counter) -> io::Result<Option<(JournalFile, u64)>> {
        let Some(file) = self.open(FILE, counter)? else {
            return Ok(None);
        };
        let last = file.last()?;
        Ok(last.filter(|last| *last <= counter.reserved).map(|last| (file, last)))
    }

    /// Opens a file of this boot and of the journal that the counter names.
    fn open(&self, name: &str, counter: &Counter) -> io::Result<Option<JournalFile>> {
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(self.directory.join(name));
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let beginning = read_at(&file, 0, MAX_LINE_BYTES)?;
        let Some(head) = lines(&beginning).next() else {
            return Ok(None);
        };
        let first = head.len() as u64;
        match serde_json::from_slice::<Head>(head) {
            Ok(head) if head.id == counter.journal && head.boot == self.boot => Ok(Some(
                JournalFile {
                    file,
                    head,
                    first,
                    end: first,
                    length: metadata.len(),
                }
                .with_end()?,
            )),
            _ => Ok(None),
        }
    }

    /// Opens the journal to use a number. Starts a new journal if there is no valid one; all numbers reserved so far
    /// then count as used.
    pub(crate) fn writer(&self, root: &Directory, counter: &mut Counter) -> Result<Writer<'_>, StoreError> {
        if let Some((file, last)) = self.current(counter).map_err(self.error("read"))? {
            return Ok(Writer {
                journal: self,
                file,
                last,
            });
        }
        let last = counter.reserved;
        // Write the counter first, because a journal that it does not name is ignored.
        counter.reserve(root, &uuid::Uuid::new_v4().to_string())?;
        let _ = std::fs::remove_file(self.directory.join(OLD_FILE));
        let file = self.create(counter, last).map_err(self.error("write"))?;
        Ok(Writer {
            journal: self,
            file,
            last,
        })
    }

    /// Writes a file without lines.
    fn create(&self, counter: &Counter, start: u64) -> io::Result<JournalFile> {
        private_directory::create(&self.directory)?;
        let head = Head {
            id: counter.journal.clone(),
            boot: self.boot.clone(),
            start,
        };
        let mut line = serde_json::to_vec(&head)?;
        line.push(b'\n');
        microkube_base::replaced_file::replace_unsynced(&self.path(), &line)?;
        let file = self.open(FILE, counter)?;
        file.ok_or_else(|| io::Error::other("the new file is not the one just written"))
    }

    /// The next changes after a position. Requires the lock, at least shared, so that no writer is between its line and
    /// its change.
    pub(crate) fn read(&self, counter: &Counter, position: &Position) -> Result<Read, StoreError> {
        self.read_files(counter, position).map_err(self.error("read"))
    }

    fn read_files(&self, counter: &Counter, position: &Position) -> io::Result<Read> {
        let Some((current, last)) = self.current(counter)? else {
            let nothing_used = position.version == counter.reserved;
            return Ok(if nothing_used {
                Read::Changes(Vec::new())
            } else {
                Read::Gap
            });
        };
        if position.version > last {
            return Ok(Read::Gap);
        }
        if position.version == last {
            return Ok(Read::Changes(Vec::new()));
        }
        if current.head.start <= position.version {
            return current.read(position);
        }
        match self.open(OLD_FILE, counter)? {
            Some(old) if old.head.start <= position.version => match old.read(position)? {
                Read::Changes(changes) if changes.is_empty() => current.read(&Position {
                    version: position.version,
                    place: Some((current.head.start, current.first)),
                }),
                read => Ok(read),
            },
            _ => Ok(Read::Gap),
        }
    }
}

impl JournalFile {
    /// Finds the last complete line. A writer may have been killed while it wrote a line.
    fn with_end(mut self) -> io::Result<Self> {
        let from = self.length.saturating_sub(MAX_LINE_BYTES as u64).max(self.first);
        let tail = read_at(&self.file, from, MAX_LINE_BYTES)?;
        let complete = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.end = from + complete as u64;
        Ok(self)
    }

    /// The number of the last complete line; `None` if the file is damaged.
    fn last(&self) -> io::Result<Option<u64>> {
        if self.end == self.first {
            return Ok(Some(self.head.start));
        }
        let from = self.end.saturating_sub(MAX_LINE_BYTES as u64).max(self.first);
        let length = usize::try_from(self.end - from).unwrap_or(MAX_LINE_BYTES);
        let tail = read_at(&self.file, from, length)?;
        let change = lines(&tail).last().map(serde_json::from_slice::<Change>);
        Ok(change
            .and_then(Result::ok)
            .map(|change| change.version)
            .filter(|version| *version > self.head.start))
    }

    fn read(&self, position: &Position) -> io::Result<Read> {
        let place = match position.place {
            Some((start, place)) if start == self.head.start && (self.first..=self.end).contains(&place) => place,
            _ => self.first,
        };
        let mut place = place;
        loop {
            let length = usize::try_from(self.end.saturating_sub(place)).unwrap_or(READ_BYTES);
            let bytes = read_at(&self.file, place, length.min(READ_BYTES))?;
            let mut changes = Vec::new();
            let mut end = place;
            for line in lines(&bytes) {
                end += line.len() as u64;
                let Ok(change) = serde_json::from_slice::<Change>(line) else {
                    return Ok(Read::Gap);
                };
                if change.version > position.version {
                    let after = Position {
                        version: change.version,
                        place: Some((self.head.start, end)),
                    };
                    changes.push((change, after));
                }
            }
            if end == place && !bytes.is_empty() {
                return Ok(Read::Gap);
            }
            // Without a known offset, the first changes may already have been read.
            if !changes.is_empty() || end == place {
                return Ok(Read::Changes(changes));
            }
            place = end;
        }
    }
}

impl Writer<'_> {
    /// Uses the next number for this change. The caller must then make the change.
    pub(crate) fn append(
        &mut self,
        root: &Directory,
        counter: &mut Counter,
        change: impl FnOnce(u64) -> Change,
    ) -> Result<u64, StoreError> {
        let version = self.last.checked_add(1).ok_or_else(|| StoreError::Exhausted {
            path: Counter::path(root.path()),
        })?;
        if version > counter.reserved {
            let journal = counter.journal.clone();
            counter.reserve(root, &journal)?;
        }
        self.write(counter, &change(version))
            .map_err(self.journal.error("write"))?;
        self.last = version;
        Ok(version)
    }

    fn write(&mut self, counter: &Counter, change: &Change) -> io::Result<()> {
        if self.file.end >= MAX_FILE_BYTES {
            std::fs::rename(self.journal.path(), self.journal.directory.join(OLD_FILE))?;
            self.file = self.journal.create(counter, self.last)?;
        }
        let mut line = serde_json::to_vec(change)?;
        line.push(b'\n');
        if self.file.length > self.file.end {
            self.file.file.set_len(self.file.end)?;
        }
        self.file.length = self.file.end + line.len() as u64;
        self.file.file.write_all_at(&line, self.file.end)?;
        self.file.end = self.file.length;
        self.file.file.flush()
    }
}

/// Parses the complete lines of a file.
#[cfg(any(test, fuzzing))]
pub(crate) fn parse_lines(bytes: &[u8]) {
    for line in lines(bytes) {
        let _ = serde_json::from_slice::<Head>(line);
        let _ = serde_json::from_slice::<Change>(line);
    }
}

/// The complete lines, each with its end.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| line.ends_with(b"\n"))
}

/// Up to `length` bytes of a file from an offset.
fn read_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
