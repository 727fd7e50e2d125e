//! Extracts the archive from a container's `tar` into a local directory.
//!
//! The container may send anything. Nothing outside the target is created, changed or linked: directories are opened
//! one name at a time without following symbolic links, and a symbolic link is created only if it cannot point outside.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use microkube_tar::{Entry, Kind, SparseMap, TarReader};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

/// Maximum length of an entry's path and of a symbolic link's target, in bytes: the kernel's own limit.
const MAX_PATH_BYTES: usize = 4096;

/// Where the content of a directory, or a single file, is written.
struct Extraction<'a> {
    /// The name that all entries start with; `None` if they are the content of a directory.
    base: Option<&'a OsStr>,
    target: &'a Path,
    /// The target directory, once it is known to be one.
    root: Option<OwnedFd>,
    /// The requested single file was written.
    is_complete: bool,
    warn: &'a mut dyn FnMut(String),
}

/// Extracts the archive to `target`. A directory's content goes into it; a file is written to that path, or into it if
/// it is a directory.
///
/// # Errors
/// If the archive does not contain `base`, or cannot be read or written.
pub(super) fn extract(
    archive: impl Read,
    base: Option<&OsStr>,
    target: &Path,
    warn: &mut dyn FnMut(String),
) -> anyhow::Result<()> {
    let mut extraction = Extraction {
        base,
        target,
        root: None,
        is_complete: false,
        warn,
    };
    let mut tar = TarReader::new(archive);
    while let Some(entry) = tar.next_entry().context("the container did not send a tar archive")? {
        let path = shown(&entry.path);
        extraction
            .entry(&entry, &mut tar)
            .with_context(|| format!("cannot write {path}"))?;
    }
    Ok(())
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).into_owned();
    if let Some((end, _)) = text.char_indices().nth(200) {
        text.truncate(end);
        text.push('…');
    }
    format!("{text:?}")
}

impl Extraction<'_> {
    fn entry(&mut self, entry: &Entry, body: &mut impl Read) -> anyhow::Result<()> {
        let Some(names) = self.relative(&entry.path) else {
            bail!("tar contents corrupted: entry outside the requested path");
        };
        if self.is_complete {
            bail!("tar contents corrupted: entry after the requested file");
        }
        let Some((name, parents)) = names.split_last() else {
            return self.top(entry, body);
        };
        match entry.kind {
            Kind::Directory => drop(self.directory(&names)?),
            Kind::File => {
                let parent = self.directory(parents)?;
                let file = replace(&parent, name, || {
                    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                    openat(&parent, name.as_os_str(), flags, mode(entry))
                })?;
                write_content(&File::from(file), entry, body)?;
            }
            Kind::Symlink => {
                let link = OsString::from_vec(entry.link.clone());
                if !stays_inside(&entry.link, parents.len()) {
                    (self.warn)(format!(
                        "warning: skipping symlink: {} -> {}",
                        shown(&entry.path),
                        shown(&entry.link)
                    ));
                    return Ok(());
                }
                let parent = self.directory(parents)?;
                replace(&parent, name, || symlinkat(link.as_os_str(), &parent, name.as_os_str()))?;
            }
            Kind::HardLink => {
                let linked = self.relative(&entry.link);
                let Some((linked_name, linked_parents)) = linked.as_deref().and_then(<[_]>::split_last) else {
                    bail!("tar contents corrupted: link to {}", shown(&entry.link));
                };
                let from = self.directory(linked_parents)?;
                let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&from, linked_name.as_os_str(), flags, Mode::empty())?;
                // Only regular files may be linked: a symbolic link moved to another depth could point outside.
                if fstat(&file)?.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
                    bail!("it is a link to {}, which is not a file", shown(&entry.link));
                }
                let parent = self.directory(parents)?;
                let path = format!("/proc/self/fd/{}", file.as_raw_fd());
                replace(&parent, name, || {
                    linkat(
                        AT_FDCWD,
                        path.as_str(),
                        &parent,
                        name.as_os_str(),
                        AtFlags::AT_SYMLINK_FOLLOW,
                    )
                })?;
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                (self.warn)(format!("warning: skipping special file: {}", shown(&entry.path)));
            }
        }
        Ok(())
    }

    /// Handles the entry of the requested path itself.
    fn top(&mut self, entry: &Entry, body: &mut impl Read) -> anyhow::Result<()> {
        match (entry.kind, self.base) {
            (Kind::Directory, _) => {
                self.directory(&[])?;
            }
            (Kind::File, Some(base)) if self.root.is_none() => {
                let mut path = self.target.to_owned();
                if path.is_dir() {
                    path.push(base);
                }
                // The user chose this path: it may contain symbolic links, or name a device.
                let file = File::options()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(mode(entry).bits())
                    .open(&path)
                    .with_context(|| format!("cannot create {}", path.display()))?;
                write_content(&file, entry, body)?;
                self.is_complete = true;
            }
            (Kind::Symlink, _) => (self.warn)(format!(
                "warning: skipping symlink: {} -> {}",
                shown(&entry.path),
                shown(&entry.link)
            )),
            _ => bail!("tar contents corrupted: neither a file nor a directory"),
        }
        Ok(())
    }

    /// The components of an entry's path below the target; `None` if it is not below.
    fn relative(&self, path: &[u8]) -> Option<Vec<OsString>> {
        if path.first() == Some(&b'/') || path.len() > MAX_PATH_BYTES {
            return None;
        }
        let mut names = path
            .split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty() && *name != b".");
        if let Some(base) = self.base
            && names.next()? != base.as_bytes()
        {
            return None;
        }
        names
            .map(|name| (name != b"..").then(|| OsString::from_vec(name.to_vec())))
            .collect()
    }

    /// Opens a directory below the target, creating missing ones.
    fn directory(&mut self, names: &[OsString]) -> anyhow::Result<OwnedFd> {
        let root = match self.root.take() {
            Some(root) => root,
            None => open_target(self.target)?,
        };
        let root = self.root.insert(root);
        let mut directory = root.try_clone()?;
        for name in names {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let open = || openat(&directory, name.as_os_str(), flags, Mode::empty());
            let next = match open() {
                Err(Errno::ENOENT) => {
                    mkdirat(&directory, name.as_os_str(), Mode::from_bits_truncate(0o755))?;
                    open()?
                }
                Err(Errno::ENOTDIR | Errno::ELOOP) => bail!("{name:?} exists and is not a directory"),
                result => result?,
            };
            directory = next;
        }
        Ok(directory)
    }
}

fn open_target(target: &Path) -> anyhow::Result<OwnedFd> {
    let of = || format!("cannot create {}", target.display());
    let path = match target.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => target.to_owned(),
    };
    std::fs::create_dir_all(&path).with_context(of)?;
    let directory = File::options().read(true).custom_flags(libc::O_DIRECTORY).open(&path);
    Ok(directory.with_context(of)?.into())
}

/// The container's permissions, without set-user-id and similar bits.
fn mode(entry: &Entry) -> Mode {
    Mode::from_bits_truncate(u32::from(entry.mode) & 0o777)
}

/// Creates an entry with this name, and replaces an existing one.
fn replace<T>(parent: &impl AsFd, name: &OsStr, make: impl Fn() -> nix::Result<T>) -> nix::Result<T> {
    match make() {
        Err(Errno::EEXIST) => {
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            make()
        }
        result => result,
    }
}

fn write_content(file: &File, entry: &Entry, body: &mut impl Read) -> io::Result<()> {
    match &entry.sparse {
        None => io::copy(body, &mut &*file).map(drop),
        Some(SparseMap { real_size, segments }) => {
            file.set_len(*real_size)?;
            let mut buffer = vec![0; 64 << 10];
            for segment in segments {
                let (mut at, mut left) = (segment.offset, segment.length);
                while left > 0 {
                    let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    let part = &mut buffer[..want];
                    body.read_exact(part)?;
                    file.write_all_at(part, at)?;
                    at = at.saturating_add(want as u64);
                    left -= want as u64;
                }
            }
            Ok(())
        }
    }
}

/// Whether a symbolic link in a directory at this depth below the target points inside the target. `..` is allowed only
/// at its start, where it means the parent of a real directory; after a name, it could mean the parent of another
/// link's target.
fn stays_inside(link: &[u8], depth: usize) -> bool {
    if link.is_empty() || link.first() == Some(&b'/') || link.len() > MAX_PATH_BYTES {
        return false;
    }
    let names = link
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".");
    let mut up = 0;
    let mut below = false;
    for name in names {
        if name != b".." {
            below = true;
        } else if below {
            return false;
        } else {
            up += 1;
        }
    }
    up <= depth
}
