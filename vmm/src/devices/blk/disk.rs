//! A disk: byte ranges of host files, one after the other.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;

use super::super::virtio::chain::Buffers;
use super::growth::DiskSize;
use crate::config::VmmEvent;

/// The unit of virtio's offsets and lengths.
pub const SECTOR_BYTES: u64 = 512;
/// Maximum number of bytes moved by one system call. A request may move 4 GiB, so the device checks between calls
/// whether to continue.
pub const PART_BYTES: u64 = 4 << 20;
/// Every segment's length is a multiple of this.
pub const BLOCK_BYTES: u64 = 4096;

/// Maximum number of segments of a disk that grows. Each holds a descriptor.
const MAX_SEGMENTS: usize = 1024;

/// Why files cannot form a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("the disk has no segments")]
    Empty,
    #[error("the size of segment {index}, {length} bytes, is not a multiple of {BLOCK_BYTES}")]
    Unaligned { index: usize, length: u64 },
    #[error("the file of segment {index} has {actual} bytes instead of {wanted}")]
    TooShort { index: usize, actual: u64, wanted: u64 },
    #[error("segment {index} is neither a regular file nor a block device")]
    Kind { index: usize },
    #[error("cannot examine segment {index}")]
    Examine {
        index: usize,
        #[source]
        source: io::Error,
    },
    #[error("the segments exceed the maximum size of a disk")]
    TooLong,
    #[error("the disk already has {MAX_SEGMENTS} segments")]
    TooManySegments,
}

#[derive(Debug)]
struct Segment {
    file: File,
    /// Where it begins on the disk, in bytes.
    start: u64,
    length: u64,
}

/// A disk as the guest sees it.
#[derive(Debug)]
pub struct Disk {
    /// In order, without gaps.
    segments: Vec<Segment>,
    length: u64,
    size: Arc<DiskSize>,
    read_only: bool,
    /// The pipe for the report of the first failure.
    events: Option<File>,
}

/// Size of a regular file or block device in bytes.
pub fn file_length(file: &File) -> io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let mut size = 0u64;
        const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;
        // SAFETY: the ioctl writes a u64 to the address given.
        if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        return Ok(Some(size));
    }
    Ok(metadata.is_file().then_some(metadata.len()))
}

impl Disk {
    /// Concatenates files, each given with the number of its bytes that belong to the disk.
    pub fn new(files: Vec<(File, u64)>, read_only: bool) -> Result<Self, DiskError> {
        let mut segments = Vec::with_capacity(files.len());
        let mut start = 0u64;
        for (index, (file, length)) in files.into_iter().enumerate() {
            if length == 0 || length % BLOCK_BYTES != 0 {
                return Err(DiskError::Unaligned { index, length });
            }
            let actual = file_length(&file).map_err(|source| DiskError::Examine { index, source })?;
            let actual = actual.ok_or(DiskError::Kind { index })?;
            if actual < length {
                return Err(DiskError::TooShort {
                    index,
                    actual,
                    wanted: length,
                });
            }
            segments.push(Segment { file, start, length });
            start = start
                .checked_add(length)
                .filter(|end| i64::try_from(*end).is_ok())
                .ok_or(DiskError::TooLong)?;
        }
        if segments.is_empty() {
            return Err(DiskError::Empty);
        }
        Ok(Self {
            segments,
            length: start,
            size: Arc::new(DiskSize::new(start)),
            read_only,
            events: None,
        })
    }

    /// Appends a file that the supervisor has checked: this thread may not examine it. Reading beyond its end fails.
    pub fn append(&mut self, file: File, length: u64) -> Result<(), DiskError> {
        let index = self.segments.len();
        if index >= MAX_SEGMENTS {
            return Err(DiskError::TooManySegments);
        }
        if length == 0 || !length.is_multiple_of(BLOCK_BYTES) {
            return Err(DiskError::Unaligned { index, length });
        }
        let end = self.length.checked_add(length);
        let end = end.filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or(DiskError::TooLong)?;
        self.segments.push(Segment {
            file,
            start: self.length,
            length,
        });
        self.length = end;
        self.size.set(end);
        Ok(())
    }

    /// The size that the driver reads.
    #[must_use]
    pub fn size(&self) -> Arc<DiskSize> {
        Arc::clone(&self.size)
    }

    /// Returns the same disk, which reports its first failure as an event on this pipe.
    #[must_use]
    pub fn reporting_to(self, events: Option<File>) -> Self {
        Self { events, ..self }
    }

    /// Reports the first request that the host failed.
    pub fn report_failure(&mut self, error: &io::Error) {
        let Some(mut events) = self.events.take() else { return };
        let event = VmmEvent::DiskFailed {
            message: error.to_string(),
        };
        if let Ok(mut line) = serde_json::to_vec(&event) {
            line.push(b'\n');
            // There may be no supervisor that reads the event.
            let _ = events.write_all(&line);
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The segment that contains byte `offset` of the disk, the offset within it, and the number of
    /// bytes from there to its end.
    fn locate(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let at = self
            .segments
            .partition_point(|segment| segment.start <= offset)
            .checked_sub(1)?;
        let segment = self.segments.get(at)?;
        let inside = offset - segment.start;
        Some((
            &segment.file,
            inside,
            segment.length.checked_sub(inside).filter(|left| *left > 0)?,
        ))
    }

    /// Runs `operate` (with file, offset and length) on each part of a range that lies in one file; `operate` returns
    /// how many bytes it processed. Returns `Ok(false)` if `broken_off` stopped it before the end.
    fn for_each(
        &self,
        mut offset: u64,
        mut length: u64,
        broken_off: &dyn Fn() -> bool,
        mut operate: impl FnMut(&File, libc::off_t, u64) -> io::Result<u64>,
    ) -> io::Result<bool> {
        while length > 0 {
            if broken_off() {
                return Ok(false);
            }
            let (file, inside, left) = self.locate(offset).ok_or(io::ErrorKind::InvalidInput)?;
            let inside = libc::off_t::try_from(inside).map_err(|_| io::ErrorKind::InvalidInput)?;
            let done = match operate(file, inside, left.min(length)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(done) => done.min(length),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            offset += done;
            length -= done;
        }
        Ok(true)
    }

    /// Moves all of `buffers` with `transfer`; no call crosses the end of a segment or moves more than [`PART_BYTES`].
    fn transfer(
        &self,
        offset: u64,
        buffers: &mut Buffers<'_>,
        broken_off: &dyn Fn() -> bool,
        transfer: impl Fn(&Buffers<'_>, &File, libc::off_t) -> io::Result<usize>,
    ) -> io::Result<bool> {
        self.for_each(
            offset,
            buffers.remaining() as u64,
            broken_off,
            |file, inside, length| {
                let length = length.min(PART_BYTES);
                let done = if (buffers.remaining() as u64) <= length {
                    transfer(buffers, file, inside)?
                } else {
                    let mut part = buffers.clone();
                    part.truncate(usize::try_from(length).unwrap_or(usize::MAX));
                    transfer(&part, file, inside)?
                };
                buffers.skip(done);
                Ok(done as u64)
            },
        )
    }

    /// Fills `buffers` from byte `offset` of the disk onwards. Here and below, `broken_off` is checked between parts,
    /// and `Ok(false)` means that it ended the operation early.
    pub fn read(&self, offset: u64, buffers: &mut Buffers<'_>, broken_off: &dyn Fn() -> bool) -> io::Result<bool> {
        self.transfer(offset, buffers, broken_off, |buffers, file, inside| {
            buffers.fill_from_file_at(file.as_fd(), inside)
        })
    }

    /// Writes `buffers` to the disk from byte `offset` onwards.
    pub fn write(&self, offset: u64, buffers: &mut Buffers<'_>, broken_off: &dyn Fn() -> bool) -> io::Result<bool> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.transfer(offset, buffers, broken_off, |buffers, file, inside| {
            buffers.drain_to_file_at(file.as_fd(), inside)
        })
    }

    /// Returns the space of a range to the host; the range reads as zeros afterwards.
    pub fn punch_hole(&self, offset: u64, length: u64, broken_off: &dyn Fn() -> bool) -> io::Result<bool> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.for_each(offset, length, broken_off, |file, inside, length| {
            let signed = libc::off_t::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            // SAFETY: a system call on an open file; no memory is involved.
            match unsafe { libc::fallocate(file.as_raw_fd(), mode, inside, signed) } {
                0 => Ok(length),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    /// Makes everything written durable.
    pub fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.segments.iter().try_for_each(|segment| segment.file.sync_data())
    }
}
