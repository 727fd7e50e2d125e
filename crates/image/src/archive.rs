//! Access to the files of an image archive or directory by their path. Archives are untrusted and may be compressed or
//! come through a pipe.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use microkube_tar::{Kind, TarError, TarReader};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::decompress::{Decompress, Packing};
use super::error::PullError;
use super::options::MAX_BYTES_VARIABLE;

/// Maximum number of files in an image archive.
const ENTRIES_MAX: usize = 100_000;
/// Maximum number of links followed from one name.
const LINKS_MAX: usize = 8;
const SPOOL_CHUNK: usize = 64 * 1024;

pub(super) enum Files {
    Directory(File),
    Archive {
        file: Arc<File>,
        members: BTreeMap<String, Member>,
    },
}

/// A file of an archive.
pub(super) enum Member {
    File { offset: u64, length: u64 },
    Link(String),
}

impl Files {
    /// Opens a directory or archive. Input without random access (`-` for standard input, pipes, compressed archives)
    /// is first copied to an unnamed file in `scratch` of at most `max_bytes`.
    pub fn open(path: &Path, scratch: &Path, max_bytes: u64) -> Result<Self, PullError> {
        if path == Path::new("-") {
            return Self::archive(spool(io::stdin().lock(), scratch, max_bytes)?);
        }
        let mut file = File::open(path).map_err(PullError::Read)?;
        let metadata = file.metadata().map_err(PullError::Read)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(file));
        }
        let mut head = [0; Packing::HEAD_BYTES as usize];
        let is_plain = metadata.is_file() && {
            let count = file.read_at(&mut head, 0).map_err(PullError::Read)?;
            !is_compressed(head.get(..count).unwrap_or_default())
        };
        if !is_plain {
            file = spool(file, scratch, max_bytes)?;
        }
        Self::archive(file)
    }

    /// Lists the files of an uncompressed tar archive with random access.
    pub fn archive(mut file: File) -> Result<Self, PullError> {
        file.seek(SeekFrom::Start(0)).map_err(PullError::Read)?;
        let file = Arc::new(file);
        let mut members = BTreeMap::new();
        let mut reader = TarReader::new(BufReader::with_capacity(1 << 20, file.as_ref()));
        let not_tar = |error: TarError| PullError::Archive(format!("it is not a readable tar archive: {error}"));
        while let Some(entry) = reader.next_entry().map_err(not_tar)? {
            let Some(name) = member_name(&entry.path) else { continue };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_none() => Member::File {
                    offset: reader.offset(),
                    length: entry.stored_bytes,
                },
                Kind::Symlink | Kind::HardLink => {
                    let Ok(target) = String::from_utf8(entry.link) else {
                        continue;
                    };
                    let base = if entry.kind == Kind::Symlink {
                        name.rsplit_once('/').map_or("", |(base, _)| base)
                    } else {
                        ""
                    };
                    Member::Link(join_path(base, &target))
                }
                _ => continue,
            };
            if members.len() >= ENTRIES_MAX {
                return Err(PullError::Archive(format!("it has more than {ENTRIES_MAX} files")));
            }
            members.insert(name, member);
        }
        Ok(Self::Archive { file, members })
    }

    pub fn exists(&self, name: &str) -> bool {
        match self {
            Self::Directory(root) => open_beneath(root, name).is_ok(),
            Self::Archive { members, .. } => members.contains_key(name),
        }
    }

    /// A file's content and length.
    pub fn file(&self, name: &str) -> Result<(Box<dyn Read + Send>, u64), PullError> {
        let missing = || PullError::Archive(format!("the file {name:?} is missing"));
        match self {
            Self::Directory(root) => {
                // Names come from the directory's own documents and must stay below it.
                let name = member_name(name.as_bytes()).ok_or_else(missing)?;
                let file = open_beneath(root, &name).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => missing(),
                    _ => PullError::Read(error),
                })?;
                let length = file.metadata().map_err(PullError::Read)?.len();
                Ok((Box::new(file), length))
            }
            Self::Archive { file, members } => {
                let mut member = members.get(name).ok_or_else(missing)?;
                // Older versions of `docker save` link layers that several images share.
                for _ in 0..LINKS_MAX {
                    let Member::Link(target) = member else { break };
                    member = members.get(target).ok_or_else(missing)?;
                }
                let Member::File { offset, length } = *member else {
                    return Err(missing());
                };
                let section = Section {
                    file: Arc::clone(file),
                    offset,
                    left: length,
                };
                Ok((Box::new(section), length))
            }
        }
    }

    /// The whole of a small file.
    pub fn small(&self, name: &str, max_bytes: u64) -> Result<Vec<u8>, PullError> {
        let (file, length) = self.file(name)?;
        if length > max_bytes {
            return Err(PullError::Archive(format!(
                "the file {name:?} is too large ({length} bytes)"
            )));
        }
        let mut bytes = Vec::new();
        file.take(max_bytes).read_to_end(&mut bytes).map_err(PullError::Read)?;
        Ok(bytes)
    }
}

/// Opens a regular file below a directory. Symbolic links must not lead out of it.
fn open_beneath(root: &File, name: &str) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = File::from(openat2(root, name, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} is not a regular file"),
        ));
    }
    Ok(file)
}

/// A section of a file that several readers use at the same time.
struct Section {
    file: Arc<File>,
    offset: u64,
    left: u64,
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let place = buffer.get_mut(..want).unwrap_or_default();
        let count = self.file.read_at(place, self.offset)?;
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

fn is_compressed(head: &[u8]) -> bool {
    Packing::of(head) != Packing::None
}

/// Writes all of `source`, decompressed, to an unnamed file. Zeros become holes.
fn spool(source: impl Read, scratch: &Path, max_bytes: u64) -> Result<File, PullError> {
    let mut source = BufReader::with_capacity(SPOOL_CHUNK, source);
    let head = io::BufRead::fill_buf(&mut source).map_err(PullError::Read)?;
    if let Packing::Unsupported(format) = Packing::of(head) {
        return Err(PullError::Archive(format!(
            "compression with {format} is not supported: decompress it first, with `{format} -dc FILE | microkube image load -`"
        )));
    }
    let mut plain = Decompress::new(source).map_err(PullError::Read)?;
    let mut file = tempfile::tempfile_in(scratch).map_err(PullError::Read)?;
    let mut chunk = Vec::with_capacity(SPOOL_CHUNK);
    let mut length = 0u64;
    loop {
        chunk.clear();
        plain
            .by_ref()
            .take(SPOOL_CHUNK as u64)
            .read_to_end(&mut chunk)
            .map_err(PullError::Read)?;
        if chunk.is_empty() {
            break;
        }
        length += chunk.len() as u64;
        if length > max_bytes {
            return Err(PullError::Archive(format!(
                "it has more than {max_bytes} bytes; {MAX_BYTES_VARIABLE} sets this limit"
            )));
        }
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all(&chunk).map_err(PullError::Read)?;
        } else {
            file.seek(SeekFrom::Current(chunk.len() as i64))
                .map_err(PullError::Read)?;
        }
    }
    file.set_len(length).map_err(PullError::Read)?;
    Ok(file)
}

/// A member's path without `./`; `None` if it leads out of the archive.
fn member_name(path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    let parts: Vec<_> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

fn join_path(base: &str, target: &str) -> String {
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    parts.join("/")
}
