//! Reads untrusted tar streams in one pass, with bounded memory and every number checked.
//!
//! Supports what layers and image archives contain: ustar, the old Unix form, GNU (long names, base-256 numbers, sparse
//! files) and PAX (`path`, `linkpath`, `size`, `uid`, `gid`, `mtime`, `SCHILY.xattr.*`, `GNU.sparse.*`). The `tar`
//! crate is not used for reading because it keeps extension records of any size in memory and ignores PAX sparse files.
//! The meaning of entries for a file system (confining paths, whiteouts) does not belong here.

mod error;
mod header;
mod pax;
mod sparse;

use std::io::{self, Read};

pub use error::{Malformation, TarError};
pub use header::RECORD;
pub use sparse::{Segment, SparseMap};

/// Maximum size of one extension record (long name, PAX header), in bytes; the limit of Go's archive/tar and therefore
/// Docker.
const EXTENSION_MAX: u64 = 1 << 20;

/// The kind of file that an entry describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file; its content follows.
    File,
    /// Another name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry of the stream, with its extension records applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path as written, not confined.
    pub path: Vec<u8>,
    /// Target of a hard or symbolic link as written.
    pub link: Vec<u8>,
    /// Kind of file.
    pub kind: Kind,
    /// Length of the body that follows in the stream, in bytes.
    pub stored_bytes: u64,
    /// Permission bits (07777).
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time, whole seconds since 1970 (may be negative).
    pub mtime_seconds: i64,
    /// Modification time, nanoseconds of the second.
    pub mtime_nanoseconds: u32,
    /// Device number, major part.
    pub device_major: u32,
    /// Device number, minor part.
    pub device_minor: u32,
    /// Extended attributes: full name and value, in the stream's order.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For sparse files, the parts of the file that the body holds.
    pub sparse: Option<SparseMap>,
}

/// Reads a tar stream entry by entry. Between two entries, [`Read`] returns the body of the first.
#[derive(Debug)]
pub struct TarReader<R> {
    inner: R,
    offset: u64,
    body_left: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads from `inner`, which should be buffered.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            offset: 0,
            body_left: 0,
            padding: 0,
            ended: false,
        }
    }

    /// Position in the stream in bytes: after [`Self::next_entry`], where the entry's body starts.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, or `None` at the end of the archive. Skips the rest of the previous body.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut long_path = None;
        let mut long_link = None;
        let mut pax = pax::Pax::default();
        loop {
            self.skip_body()?;
            let Some(record) = self.next_header()? else {
                return Ok(None);
            };
            let raw = header::parse(&record).map_err(|what| self.malformed(what))?;
            match raw.type_flag {
                b'L' | b'K' | b'x' | b'g' | b'X' => {
                    let body = self.extension(raw.size)?;
                    match raw.type_flag {
                        b'L' => long_path = Some(until_nul(body)),
                        b'K' => long_link = Some(until_nul(body)),
                        // As in Docker, global headers are not applied: in practice they hold comments.
                        b'g' => {}
                        _ => pax = pax::Pax::parse(&body).map_err(|what| self.malformed(what))?,
                    }
                }
                _ => return self.finish_entry(&record, raw, long_path, long_link, pax).map(Some),
            }
        }
    }

    fn finish_entry(
        &mut self,
        record: &[u8; RECORD],
        raw: header::Raw,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
        pax: pax::Pax,
    ) -> Result<Entry, TarError> {
        let path = pax.sparse.name.clone().or(pax.path).or(long_path).unwrap_or(raw.path);
        let link = pax.link.or(long_link).unwrap_or(raw.link);
        let kind = match raw.type_flag {
            0 | b'0' | b'7' | b'S' if path.ends_with(b"/") && raw.type_flag != b'S' => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(self.malformed(Malformation::UnknownType {
                    path: String::from_utf8_lossy(&path).into_owned(),
                    type_flag: char::from(other),
                }));
            }
        };
        // Only regular files have a body, whatever size the header states (as in Go's archive/tar).
        let stored = if kind == Kind::File {
            pax.size.unwrap_or(raw.size)
        } else {
            0
        };
        self.start_body(stored)?;
        let sparse = if kind != Kind::File {
            None
        } else if raw.type_flag == b'S' {
            Some(self.gnu_sparse(record)?)
        } else {
            self.pax_sparse(&pax.sparse)?
        };
        let (mtime_seconds, mtime_nanoseconds) = pax.mtime.unwrap_or((raw.mtime, 0));
        let id =
            |value: u64, what| u32::try_from(value).map_err(|_| self.malformed(Malformation::LargeId { what, value }));
        Ok(Entry {
            uid: id(pax.uid.unwrap_or(raw.uid), "user id")?,
            gid: id(pax.gid.unwrap_or(raw.gid), "group id")?,
            path,
            link,
            kind,
            stored_bytes: self.body_left,
            mode: raw.mode,
            mtime_seconds,
            mtime_nanoseconds,
            device_major: raw.device_major,
            device_minor: raw.device_minor,
            xattrs: pax.xattrs,
            sparse,
        })
    }

    fn gnu_sparse(&mut self, record: &[u8; RECORD]) -> Result<SparseMap, TarError> {
        let (mut map, mut more) = sparse::gnu_header(record).map_err(|what| self.malformed(what))?;
        while more {
            // The extension records are between header and body and are not counted in the size.
            let mut extension = [0; RECORD];
            self.fill(&mut extension)?;
            more = sparse::gnu_extension(&extension, &mut map).map_err(|what| self.malformed(what))?;
        }
        map.check(self.body_left).map_err(|what| self.malformed(what))?;
        Ok(map)
    }

    fn pax_sparse(&mut self, pax: &pax::PaxSparse) -> Result<Option<SparseMap>, TarError> {
        let Some(real_size) = pax.real_size else {
            return Ok(None);
        };
        let segments = match (pax.major, &pax.segments) {
            (Some(1), _) => self.pax_sparse_map()?,
            (_, segments) if !segments.is_empty() => segments.clone(),
            _ => return Ok(None),
        };
        let map = SparseMap { real_size, segments };
        map.check(self.body_left).map_err(|what| self.malformed(what))?;
        Ok(Some(map))
    }

    /// The map of PAX sparse format 1.0: decimal lines at the start of the body, padded to a record.
    fn pax_sparse_map(&mut self) -> Result<Vec<Segment>, TarError> {
        let mut numbers = sparse::MapText::default();
        while !numbers.complete() {
            let mut record = [0; RECORD];
            self.read_exact(&mut record).map_err(|error| self.truncation(error))?;
            numbers.feed(&record).map_err(|what| self.malformed(what))?;
        }
        Ok(numbers.into_segments())
    }

    /// Reads the next header; `None` at the end-of-archive marker or if the stream ends between entries.
    fn next_header(&mut self) -> Result<Option<[u8; RECORD]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let mut record = [0; RECORD];
        let mut have = 0;
        while have < RECORD {
            match self.inner.read(record.get_mut(have..).unwrap_or_default()) {
                Ok(0) if have == 0 => {
                    self.ended = true;
                    return Ok(None);
                }
                Ok(0) => return Err(TarError::Truncated { offset: self.offset }),
                Ok(count) => {
                    have += count;
                    self.offset = self.offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if record == [0; RECORD] {
            self.ended = true;
            return Ok(None);
        }
        Ok(Some(record))
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX {
            return Err(self.malformed(Malformation::LargeExtension {
                size,
                max: EXTENSION_MAX,
            }));
        }
        self.start_body(size)?;
        let mut body = Vec::new();
        self.read_to_end(&mut body).map_err(|error| self.truncation(error))?;
        Ok(body)
    }

    fn start_body(&mut self, size: u64) -> Result<(), TarError> {
        if size > i64::MAX as u64 {
            return Err(self.malformed(Malformation::LargeEntry { size }));
        }
        self.body_left = size;
        self.padding = size.next_multiple_of(RECORD as u64) - size;
        Ok(())
    }

    fn skip_body(&mut self) -> Result<(), TarError> {
        io::copy(&mut ReadBody(self), &mut io::sink()).map_err(|error| self.truncation(error))?;
        self.body_left = self.padding;
        self.padding = 0;
        io::copy(&mut ReadBody(self), &mut io::sink()).map_err(|error| self.truncation(error))?;
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), TarError> {
        self.inner.read_exact(buffer).map_err(|error| self.truncation(error))?;
        self.offset = self.offset.saturating_add(buffer.len() as u64);
        Ok(())
    }

    fn truncation(&self, error: io::Error) -> TarError {
        match error.kind() {
            // If a stream that ends early carries its own cause (corrupt compression), that cause is reported.
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none() => TarError::Truncated { offset: self.offset },
            _ => TarError::Io(error),
        }
    }

    fn malformed(&self, what: Malformation) -> TarError {
        TarError::Malformed {
            offset: self.offset,
            what,
        }
    }
}

/// Reads the current entry's body; end of file is the end of the body.
impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.inner.read(buffer.get_mut(..want).unwrap_or_default())?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.body_left = self.body_left.saturating_sub(count as u64);
        self.offset = self.offset.saturating_add(count as u64);
        Ok(count)
    }
}

struct ReadBody<'a, R>(&'a mut TarReader<R>);

impl<R: Read> Read for ReadBody<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests;
