//! Writes the tar stream of a layer as an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use microkube_tar::{Entry, Kind, TarError, TarReader};

use super::compressor::Compression;
use super::data::{COPY_BUFFER, FileWriter};
use super::error::ErofsError;
use super::format::{self, SYMLINK_MAX_BYTES};
use super::layout::{self, Summary};
use super::limits::Limits;
use super::lower::{LowerFile, LowerLayers};
use super::merge::copy_content;
use super::record::Attributes;
use super::tree::{Content, Linked, Tree};

/// Maximum size of a file's extended attributes, in bytes, as in ext4 and XFS (`XATTR_LIST_MAX` limits their names to
/// the same size).
const XATTRS_MAX_BYTES: usize = 64 * 1024;

/// Writes the layer in `tar` to the empty file `image`; `scratch` are other empty files, which the caller discards
/// afterwards.
///
/// Without `lower`, the layers below, the image may be correct only as the lowest layer or not at all: see
/// [`Summary::needs`]. `tar` is read to the end of the archive, not of the stream. After an error the files' content is
/// undefined.
pub fn write_layer(
    tar: &mut impl Read,
    image: &File,
    scratch: [File; 2],
    limits: &Limits,
    compression: Compression,
    lower: Option<&LowerLayers>,
) -> Result<Summary, ErofsError> {
    let [names, tails] = scratch;
    let mut tree = Tree::new(limits.files, names, lower)?;
    let mut files = FileWriter::new(image, tails, limits.bytes, compression);
    let mut reader = TarReader::new(tar);
    let mut buffer = vec![0; COPY_BUFFER];
    while let Some(entry) = reader.next_entry()? {
        add(&mut tree, &mut files, &mut reader, entry, &mut buffer)?;
    }
    tree.freeze();
    let (summary, super_block) = layout::write(&tree, files.finish())?;
    layout::seal(image, &super_block)?;
    Ok(summary)
}

fn add(
    tree: &mut Tree<'_>,
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
        Kind::HardLink => {
            if let Linked::Lower(file) = tree.insert_hard_link(&entry.path, &entry.link)? {
                copy_up(tree, files, &entry.link, &file, buffer)?;
                tree.insert_hard_link(&entry.path, &entry.link)?;
            }
            return Ok(());
        }
        Kind::File => {
            let inode = format::EXTENDED_INODE + format::XATTR_HEADER + attributes.xattrs.len();
            let size = entry.sparse.as_ref().map_or(entry.stored_bytes, |map| map.real_size);
            files.begin(inode, entry.sparse.is_some())?;
            files.check_room(size)?;
            copy(files, body, &entry, buffer)?;
            Content::File(files.end()?)
        }
        Kind::Directory => Content::Directory,
        Kind::Symlink => {
            if entry.link.is_empty() || entry.link.len() > SYMLINK_MAX_BYTES || entry.link.contains(&0) {
                return Err(ErofsError::entry(
                    &entry.path,
                    "is a symbolic link with an invalid target",
                ));
            }
            Content::Symlink(&entry.link)
        }
        Kind::CharDevice | Kind::BlockDevice => {
            let device = format::device_number(entry.device_major, entry.device_minor)
                .ok_or_else(|| ErofsError::entry(&entry.path, "is a device with an invalid device number"))?;
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

/// Copies a file of a lower layer into this one, as overlayfs does before it adds a hard link.
fn copy_up(
    tree: &mut Tree<'_>,
    files: &mut FileWriter<'_>,
    path: &[u8],
    file: &LowerFile,
    buffer: &mut [u8],
) -> Result<(), ErofsError> {
    let attributes = file.attributes()?;
    let target = file.symlink_target()?;
    let content = copy_content(files, &attributes, file, target.as_deref(), buffer)?;
    tree.insert(path, attributes, content)
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
        // The map was checked: its parts ascend and lie within the file.
        files.skip(segment.offset.saturating_sub(position))?;
        copy_bytes(files, segment.length)?;
        position = segment.offset.saturating_add(segment.length);
    }
    files.skip(map.real_size.saturating_sub(position))
}

/// Encodes an entry's extended attributes in a fixed order.
fn encode_xattrs(entry: &Entry) -> Result<Vec<u8>, ErofsError> {
    if entry.xattrs.is_empty() {
        return Ok(Vec::new());
    }
    let mut attributes = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        // The runtime decides how layers are stacked: an image must not redirect or hide through overlayfs's own
        // attributes.
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue;
        }
        // Most file systems cannot store other namespaces either, and unpacking drops them too.
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
    Ok(out)
}
