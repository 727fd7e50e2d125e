//! Directories and files on disk. The store makes all changes on disk through a [`Directory`], relative to an open
//! descriptor.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::UnlinkatFlags;

#[cfg(test)]
use crate::power_cut::{Node, Recorder};

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    fd: OwnedFd,
    path: PathBuf,
    #[cfg(test)]
    recorded: Option<(Recorder, Node)>,
}

/// A complete file that has no name yet.
#[derive(Debug)]
pub(crate) struct UnnamedFile {
    file: File,
    #[cfg(test)]
    recorded: Option<Node>,
}

/// An entry of a directory.
#[derive(Debug)]
pub(crate) struct Entry {
    /// `None` if the name is not UTF-8.
    pub name: Option<String>,
    /// Whether the entry is known not to be a directory. Some file systems do not report the type.
    pub is_no_directory: bool,
    /// Inode number.
    pub inode: u64,
}

const OPEN_DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

impl Directory {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            fd: nix::fcntl::open(path, OPEN_DIRECTORY, Mode::empty())?,
            path: path.to_owned(),
            #[cfg(test)]
            recorded: None,
        })
    }

    /// Records the operations, for a test that cuts the power.
    #[cfg(test)]
    pub(crate) fn recorded_by(mut self, recorder: Option<Recorder>) -> Self {
        self.recorded = recorder.map(|recorder| {
            let root = recorder.root();
            (recorder, root)
        });
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory in this one; `None` if it does not exist.
    pub(crate) fn open_child(&self, name: &str) -> io::Result<Option<Self>> {
        self.recording(|| {
            let fd = match nix::fcntl::openat(&self.fd, name, OPEN_DIRECTORY, Mode::empty()) {
                Ok(fd) => fd,
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            };
            Ok(Some(Self {
                fd,
                path: self.path.join(name),
                #[cfg(test)]
                recorded: self
                    .recorded
                    .as_ref()
                    .map(|(recorder, node)| (recorder.clone(), recorder.child(*node, name))),
            }))
        })
    }

    /// Creates a directory in this one, unless it exists.
    pub(crate) fn make_child(&self, name: &str) -> io::Result<()> {
        self.recording(|| match nix::sys::stat::mkdirat(&self.fd, name, Mode::S_IRWXU) {
            Ok(()) => {
                #[cfg(test)]
                if let Some((recorder, node)) = &self.recorded {
                    recorder.made_directory(*node, name);
                }
                Ok(())
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(errno.into()),
        })
    }

    /// The entries, except for `.` and `..`. A removed directory has no entries.
    pub(crate) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut dir = match Dir::openat(&self.fd, ".", OPEN_DIRECTORY, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::ENOENT) => return Ok(Vec::new()),
            Err(errno) => return Err(errno.into()),
        };
        let mut entries = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push(Entry {
                    name: name.to_str().ok().map(str::to_owned),
                    is_no_directory: entry.file_type().is_some_and(|kind| kind != Type::Directory),
                    inode: entry.ino(),
                });
            }
        }
        Ok(entries)
    }

    /// Opens a file of any type without following links or blocking; `None` if it does not exist.
    pub(crate) fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        match nix::fcntl::openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Writes a file without a name, durably. The file disappears with its last descriptor unless it is linked.
    pub(crate) fn write_unnamed(&self, content: &[u8]) -> io::Result<UnnamedFile> {
        let flags = OFlag::O_WRONLY | OFlag::O_TMPFILE | OFlag::O_CLOEXEC;
        let fd = nix::fcntl::openat(&self.fd, ".", flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        let mut file = File::from(fd);
        file.write_all(content)?;
        #[cfg(test)]
        let recorded = self.recorded.as_ref().map(|(recorder, _)| recorder.wrote(content));
        file.sync_data()?;
        #[cfg(test)]
        if let (Some((recorder, _)), Some(node)) = (&self.recorded, recorded) {
            recorder.synced(node);
        }
        Ok(UnnamedFile {
            file,
            #[cfg(test)]
            recorded,
        })
    }

    /// Links a file into this directory under a name that must be free.
    pub(crate) fn link(&self, file: &UnnamedFile, name: &str) -> io::Result<()> {
        // Unlike AT_EMPTY_PATH, this needs no capability.
        let path = format!("/proc/self/fd/{}", file.file.as_raw_fd());
        self.recording(|| {
            nix::unistd::linkat(AT_FDCWD, path.as_str(), &self.fd, name, AtFlags::AT_SYMLINK_FOLLOW)?;
            #[cfg(test)]
            if let (Some((recorder, node)), Some(file)) = (&self.recorded, file.recorded) {
                recorder.linked(*node, name, file);
            }
            Ok(())
        })
    }

    /// Creates an empty file, which must not exist.
    pub(crate) fn create_empty(&self, name: &str) -> io::Result<()> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.recording(|| {
            nix::fcntl::openat(&self.fd, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
            #[cfg(test)]
            if let Some((recorder, node)) = &self.recorded {
                let file = recorder.wrote(b"");
                recorder.linked(*node, name, file);
            }
            Ok(())
        })
    }

    /// Replaces a file, durably.
    pub(crate) fn replace(&self, name: &str, content: &[u8]) -> io::Result<()> {
        self.recording(|| {
            microkube_base::replaced_file::replace(&self.path.join(name), content)?;
            #[cfg(test)]
            if let Some((recorder, node)) = &self.recorded {
                let file = recorder.wrote(content);
                recorder.synced(file);
                recorder.linked(*node, name, file);
                recorder.synced(*node);
            }
            Ok(())
        })
    }

    pub(crate) fn remove_file(&self, name: &str) -> io::Result<()> {
        self.recording(|| {
            nix::unistd::unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir)?;
            #[cfg(test)]
            if let Some((recorder, node)) = &self.recorded {
                recorder.removed(*node, name);
            }
            Ok(())
        })
    }

    /// Makes the names in this directory durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.recording(|| {
            nix::unistd::fsync(&self.fd)?;
            #[cfg(test)]
            if let Some((recorder, node)) = &self.recorded {
                recorder.synced(*node);
            }
            Ok(())
        })
    }

    /// Runs an operation. In a test that cuts the power, no operation of another thread runs between this one and its
    /// record.
    fn recording<T>(&self, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        #[cfg(test)]
        let _turn = self
            .recorded
            .as_ref()
            .map(|(recorder, _)| recorder.turn())
            .transpose()?;
        operation()
    }
}

/// The content of a file that is not longer than `max_bytes`.
pub(crate) fn read(file: File, max_bytes: u64) -> io::Result<Result<Vec<u8>, NotReadable>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(NotReadable::NotAFile));
    }
    // The length only determines how much memory is reserved, because the file may change.
    let mut content = Vec::with_capacity(
        usize::try_from(metadata.len().min(max_bytes))
            .unwrap_or(0)
            .saturating_add(1),
    );
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > max_bytes {
        return Ok(Err(NotReadable::TooLong));
    }
    Ok(Ok(content))
}

/// Why a file was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotReadable {
    NotAFile,
    TooLong,
}
