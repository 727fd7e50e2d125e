//! Writes EROFS images, straight from a layer's tar stream: in one pass, without root, without unpacking.
//!
//! Content goes to the image while the stream is read; only names and attributes are kept in memory. The same stream always
//! gives the same bytes. Whiteouts of the OCI layer format become what overlayfs understands. Nothing here knows of
//! compression, digests or the image store.

mod data;
pub(crate) mod format;
mod layout;
#[cfg(test)]
mod reader;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use super::tar::{Entry, Kind, TarError, TarReader};
use data::FileWriter;
use tree::{Attributes, Content, Tree};

/// Most memory names and attributes of a layer may take; about four million files.
const TREE_MEMORY_MAX_BYTES: usize = 1 << 30;
/// Most bytes of extended attributes a file may have, as in ext4 and XFS (`XATTR_LIST_MAX` bounds the names alike).
const XATTRS_MAX_BYTES: usize = 64 * 1024;
/// `PATH_MAX` of Linux, without the terminating NUL.
const SYMLINK_MAX_BYTES: usize = 4095;
const COPY_BUFFER: usize = 64 * 1024;

/// Why a layer could not be written as an image.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The stream itself is broken or could not be read.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// An entry means nothing, or something that is refused.
    #[error("entry {path} {why}")]
    Entry {
        /// The entry's path, escaped.
        path: String,
        /// What is wrong, as a predicate.
        why: String,
    },
    /// Names and attributes need more memory than is allowed.
    #[error("the layer has too many files: their names and attributes exceed {} MiB", TREE_MEMORY_MAX_BYTES >> 20)]
    TooManyEntries,
    /// More than EROFS can address.
    #[error("the layer exceeds 16 TiB, the most a layer may have")]
    TooLarge,
    /// The image could not be written.
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Writing the image, or the file beside it, failed.
#[derive(Debug, thiserror::Error)]
#[error("writing the image failed")]
pub struct OutputError(#[source] pub io::Error);

impl ErofsError {
    fn entry(path: &[u8], why: impl Into<String>) -> Self {
        Self::Entry {
            path: path.escape_ascii().to_string(),
            why: why.into(),
        }
    }
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Length of the image, a multiple of 4096.
    pub length_bytes: u64,
    /// How many inodes it has.
    pub inodes: u64,
}

/// Writes the layer in `tar` to the empty file `image`; `scratch` is another empty file that is of no use afterwards.
///
/// `tar` is read to the end of the archive, not of the stream. On an error the files' content is undefined.
pub fn write_layer(tar: &mut impl Read, image: &File, scratch: File) -> Result<Summary, ErofsError> {
    let mut tree = Tree::new(TREE_MEMORY_MAX_BYTES);
    let mut files = FileWriter::new(image, scratch);
    let mut reader = TarReader::new(tar);
    let mut buffer = vec![0; COPY_BUFFER];
    while let Some(entry) = reader.next_entry()? {
        add(&mut tree, &mut files, &mut reader, entry, &mut buffer)?;
    }
    let (blocks, spill) = files.finish();
    let (summary, super_block) = layout::write(&tree, blocks, spill)?;
    layout::seal(image, &super_block)?;
    Ok(summary)
}

fn add(
    tree: &mut Tree,
    files: &mut FileWriter<'_>,
    body: &mut TarReader<impl Read>,
    entry: Entry,
    buffer: &mut [u8],
) -> Result<(), ErofsError> {
    let attributes = Attributes {
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        mtime_seconds: entry.mtime_seconds,
        mtime_nanoseconds: entry.mtime_nanoseconds,
        xattrs: encode_xattrs(&entry)?,
    };
    if tree.whiteout(&entry.path, &attributes)? {
        return Ok(());
    }
    let content = match entry.kind {
        Kind::HardLink => return tree.insert_hard_link(&entry.path, &entry.link),
        Kind::File => {
            let inode = format::EXTENDED_INODE + format::XATTR_HEADER + attributes.xattrs.len();
            files.begin(inode)?;
            copy(files, body, &entry, buffer)?;
            Content::File(files.end()?)
        }
        Kind::Directory => Content::Directory(Box::default()),
        Kind::Symlink => {
            if entry.link.is_empty() || entry.link.len() > SYMLINK_MAX_BYTES || entry.link.contains(&0) {
                return Err(ErofsError::entry(
                    &entry.path,
                    "is a symbolic link with an impossible target",
                ));
            }
            Content::Symlink(entry.link.as_slice().into())
        }
        Kind::CharDevice | Kind::BlockDevice => {
            let device = format::device_number(entry.device_major, entry.device_minor)
                .ok_or_else(|| ErofsError::entry(&entry.path, "is a device with a number that Linux does not have"))?;
            if entry.kind == Kind::CharDevice {
                Content::CharDevice(device)
            } else {
                Content::BlockDevice(device)
            }
        }
        Kind::Fifo => Content::Fifo,
    };
    tree.insert(&entry.path, attributes, content)
}

fn copy(
    files: &mut FileWriter<'_>,
    body: &mut TarReader<impl Read>,
    entry: &Entry,
    buffer: &mut [u8],
) -> Result<(), ErofsError> {
    let mut copy_bytes = |files: &mut FileWriter<'_>, mut left: u64| {
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let count = match body.read(buffer.get_mut(..want).unwrap_or_default()) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && error.get_ref().is_none() => {
                    return Err(TarError::Truncated { offset: body.offset() }.into());
                }
                Err(error) => return Err(TarError::Io(error).into()),
            };
            if count == 0 {
                return Err(ErofsError::from(TarError::Truncated { offset: body.offset() }));
            }
            files.write(buffer.get(..count).unwrap_or_default())?;
            left -= count as u64;
        }
        Ok(())
    };
    let Some(map) = &entry.sparse else {
        return copy_bytes(files, entry.stored_bytes);
    };
    let mut position = 0;
    for segment in &map.segments {
        // The map was checked: its parts ascend within the file.
        files.skip(segment.offset.saturating_sub(position))?;
        copy_bytes(files, segment.length)?;
        position = segment.offset.saturating_add(segment.length);
    }
    files.skip(map.real_size.saturating_sub(position))
}

/// Encodes an entry's extended attributes, in a fixed order.
fn encode_xattrs(entry: &Entry) -> Result<Box<[u8]>, ErofsError> {
    if entry.xattrs.is_empty() {
        return Ok(Box::default());
    }
    let mut attributes = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        // How layers are stacked is the runtime's business: an image cannot redirect or hide through overlayfs' own attributes.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        // Other name spaces cannot be stored by most file systems either; unpacking drops them too.
        if let Some(key) = format::xattr_index(name) {
            attributes.insert(key, value);
        }
    }
    let mut out = Vec::new();
    for ((index, name), value) in attributes {
        let name_length = u8::try_from(name.len())
            .map_err(|_| ErofsError::entry(&entry.path, "has an extended attribute whose name is too long"))?;
        let value_length = u16::try_from(value.len())
            .map_err(|_| ErofsError::entry(&entry.path, "has an extended attribute of more than 64 KiB"))?;
        out.extend([name_length, index]);
        out.extend(value_length.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() > XATTRS_MAX_BYTES {
        return Err(ErofsError::entry(
            &entry.path,
            format!("has more than {XATTRS_MAX_BYTES} bytes of extended attributes"),
        ));
    }
    Ok(out.into())
}
