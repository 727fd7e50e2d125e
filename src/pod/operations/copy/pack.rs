//! Packs local files into the archive that a container's `tar` extracts.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tar::{Builder, EntryType, Header};

/// Writes an archive with the file or directory at `source`, under the name `name`.
///
/// # Errors
/// If a file cannot be read, or the archive cannot be written.
pub(super) fn pack(source: &Path, name: &OsStr, to: impl Write, warn: &mut dyn FnMut(String)) -> anyhow::Result<()> {
    let mut archive = Builder::new(to);
    let mut pending = vec![(source.to_owned(), PathBuf::from(name))];
    while let Some((path, name)) = pending.pop() {
        let of = || format!("cannot read {}", path.display());
        let metadata = std::fs::symlink_metadata(&path).with_context(of)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            append(
                &mut archive,
                &header(&metadata, EntryType::Directory, 0),
                &name,
                io::empty(),
            )?;
            let entries = std::fs::read_dir(&path).with_context(of)?;
            let mut entries = entries.collect::<io::Result<Vec<_>>>().with_context(of)?;
            // Entries are taken from the end of the list.
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.file_name()));
            pending.extend(entries.iter().map(|entry| (entry.path(), name.join(entry.file_name()))));
        } else if kind.is_symlink() {
            let link = std::fs::read_link(&path).with_context(of)?;
            let mut header = header(&metadata, EntryType::Symlink, 0);
            archive
                .append_link(&mut header, &name, link)
                .context("cannot send the archive")?;
        } else if kind.is_file() {
            // `O_NONBLOCK`: the file may meanwhile have been replaced by a pipe.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let file = File::options()
                .read(true)
                .custom_flags(flags)
                .open(&path)
                .with_context(of)?;
            let metadata = file.metadata().with_context(of)?;
            if !metadata.is_file() {
                anyhow::bail!("cannot read {}: it was replaced while being read", path.display());
            }
            let length = metadata.len();
            // If the file has become shorter, pad it, because the entry's size is already written.
            let content = file.take(length).chain(io::repeat(0)).take(length);
            append(
                &mut archive,
                &header(&metadata, EntryType::Regular, length),
                &name,
                content,
            )?;
        } else {
            let what = if kind.is_socket() { "socket" } else { "special file" };
            warn(format!("warning: skipping {what}: {}", path.display()));
        }
    }
    archive
        .into_inner()
        .and_then(|mut to| to.flush())
        .context("cannot send the archive")
}

fn header(metadata: &Metadata, kind: EntryType, length: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(metadata);
    header.set_entry_type(kind);
    header.set_size(length);
    header
}

fn append(archive: &mut Builder<impl Write>, header: &Header, name: &Path, content: impl Read) -> anyhow::Result<()> {
    archive
        .append_data(&mut header.clone(), name, content)
        .context("cannot send the archive")
}
