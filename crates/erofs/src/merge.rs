//! Merges several layers into one image with the files that overlayfs would show. Only for layers with nothing below
//! them: whiteouts and opaque directories have no further effect then and are left out.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use super::compressor::Compression;
use super::data::{COPY_BUFFER, FileWriter};
use super::error::ErofsError;
use super::format::{EXTENDED_INODE, S_IFBLK, S_IFCHR, S_IFIFO, S_IFREG, XATTR_HEADER};
use super::layout::{self, Summary};
use super::limits::Limits;
use super::lower::{Found, LowerFile, LowerLayers};
use super::record::Attributes;
use super::tree::{Content, ROOT, Tree};
use super::volume::VolumeError;

/// Writes the merged image of `layers` to the empty file `image`; `scratch` are other empty files, which the caller
/// discards afterwards. The same layers always give the same bytes. After an error the files' content is undefined.
pub fn merge(
    layers: &LowerLayers,
    image: &File,
    scratch: [File; 2],
    limits: &Limits,
    compression: Compression,
) -> Result<Summary, ErofsError> {
    let [names, tails] = scratch;
    let mut tree = Tree::new(limits.files, names, None)?;
    let mut files = FileWriter::new(image, tails, limits.bytes, compression);
    let mut buffer = vec![0; COPY_BUFFER];
    let root = layers.root();
    tree.insert(b"", root.attributes()?, Content::Directory)?;
    let mut pending = vec![(ROOT, root)];
    // Files with more than one name.
    let mut copied = HashMap::new();
    while let Some((parent, directory)) = pending.pop() {
        directory.names()?.for_each(|name, found| {
            let file = match found {
                Found::Directory(merged) => {
                    let id = tree.insert_at(parent, name, merged.attributes()?, Content::Directory, 0)?;
                    pending.push((id, merged));
                    return Ok(());
                }
                Found::File(file) => file,
            };
            if let Some(id) = copied.get(&file.identity()) {
                return tree.link_at(parent, name, *id);
            }
            let attributes = file.attributes()?;
            let target = file.symlink_target()?;
            let content = copy_content(&mut files, &attributes, &file, target.as_deref(), &mut buffer)?;
            let id = tree.insert_at(parent, name, attributes, content, 0)?;
            if file.inode.links > 1 {
                copied.insert(file.identity(), id);
            }
            Ok(())
        })?;
    }
    tree.freeze();
    let (summary, super_block) = layout::write(&tree, files.finish())?;
    layout::seal(image, &super_block)?;
    Ok(summary)
}

/// Copies the content of a file of another layer; `target` is the target of a symbolic link.
pub(super) fn copy_content<'t>(
    files: &mut FileWriter<'_>,
    attributes: &Attributes,
    file: &LowerFile,
    target: Option<&'t [u8]>,
    buffer: &mut [u8],
) -> Result<Content<'t>, ErofsError> {
    Ok(match (target, file.inode.kind()) {
        (Some(target), _) => Content::Symlink(target),
        (None, S_IFREG) => {
            files.begin(EXTENDED_INODE + XATTR_HEADER + attributes.xattrs.len(), false)?;
            files.check_room(file.inode.size)?;
            let mut content = file.content();
            loop {
                match content.read(buffer).map_err(|error| ErofsError::Lower(error.into()))? {
                    0 => break,
                    count => files.write(buffer.get(..count).unwrap_or_default())?,
                }
            }
            Content::File(files.end()?)
        }
        (None, S_IFCHR) => Content::CharDevice(file.inode.device),
        (None, S_IFBLK) => Content::BlockDevice(file.inode.device),
        (None, S_IFIFO) => Content::Fifo,
        (None, _) => return Err(ErofsError::Lower(VolumeError::Damaged("unknown file type"))),
    })
}
