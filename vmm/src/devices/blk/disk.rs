//! A disk: byte ranges of host files, one after the other.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileTypeExt;

use super::super::virtio::chain::Buffers;
use crate::config::VmmEvent;

/// The unit in which virtio counts.
pub const SECTOR_BYTES: u64 = 512;
/// Most bytes moved by one system call, after which it is looked whether to go on: a request may have 4 GiB.
pub const PART_BYTES: u64 = 4 << 20;
/// Every segment is a whole number of these.
pub const BLOCK_BYTES: u64 = 4096;

/// Why files do not make a disk.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No segments.
    #[error("a disk without segments")]
    Empty,
    /// Length that is no number of blocks.
    #[error("segment {index} has {length} bytes, which is no whole number of {BLOCK_BYTES}-byte blocks")]
    Unaligned {
        /// Which one.
        index: usize,
        /// Bytes.
        length: u64,
    },
    /// Shorter file than said.
    #[error("segment {index}: the file has {actual} bytes, the disk needs {wanted}")]
    TooShort {
        /// Which one.
        index: usize,
        /// Size of the file, bytes.
        actual: u64,
        /// Bytes that should be there.
        wanted: u64,
    },
    /// Neither file nor block device.
    #[error("segment {index} is neither a regular file nor a block device")]
    Kind {
        /// Which one.
        index: usize,
    },
    /// The file cannot be examined.
    #[error("cannot examine segment {index}")]
    Examine {
        /// Which one.
        index: usize,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// The sum overflows.
    #[error("the segments are together longer than any disk")]
    TooLong,
}

#[derive(Debug)]
struct Segment {
    file: File,
    /// Where it begins on the disk, bytes.
    start: u64,
    length: u64,
}

/// A disk as the guest sees it.
#[derive(Debug)]
pub struct Disk {
    /// Without gaps, in order.
    segments: Vec<Segment>,
    length: u64,
    read_only: bool,
    /// Where the first failure is reported.
    events: Option<File>,
}

/// Size of a regular file or block device, bytes.
pub fn file_length(file: &File) -> io::Result<Option<u64>> {
    let metadata = file.metadata()?;
    if metadata.file_type().is_block_device() {
        let mut size = 0u64;
        const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
        // SAFETY: the ioctl writes a u64 to the address given.
        if unsafe { libc::ioctl(file.as_raw_fd(), BLKGETSIZE64, &raw mut size) } < 0 {
            return Err(io::Error::last_os_error());
        }
        return Ok(Some(size));
    }
    Ok(metadata.is_file().then_some(metadata.len()))
}

impl Disk {
    /// Concatenates files, each with the number of bytes of it that belong to the disk.
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
            read_only,
            events: None,
        })
    }

    /// The same, whose first failure is reported as an event on this pipe.
    #[must_use]
    pub fn reporting_to(self, events: Option<File>) -> Self {
        Self { events, ..self }
    }

    /// Reports that the host cannot do what the guest asks, the first time.
    pub fn report_failure(&mut self, error: &io::Error) {
        let Some(mut events) = self.events.take() else { return };
        let event = VmmEvent::DiskFailed {
            message: error.to_string(),
        };
        if let Ok(mut line) = serde_json::to_vec(&event) {
            line.push(b'\n');
            // A supervisor that is gone misses it.
            let _ = events.write_all(&line);
        }
    }

    /// Size, bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Whether writes are refused.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The segment that holds byte `offset` of the disk, the offset in it, and the bytes from there to its end.
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

    /// Runs `operate` on each part of a range that lies in one file: file, offset, length; it answers how much it did.
    /// `Ok(false)`: `broken_off` said so before the end.
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

    /// Moves `buffers`, all of them, with `transfer`, never beyond a segment or more than [`PART_BYTES`] in one call.
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

    /// Fills `buffers` from byte `offset` of the disk on. `Ok(false)`, here and below: `broken_off`, which is asked between parts of it,
    /// ended it before its end.
    pub fn read(&self, offset: u64, buffers: &mut Buffers<'_>, broken_off: &dyn Fn() -> bool) -> io::Result<bool> {
        self.transfer(offset, buffers, broken_off, |buffers, file, inside| {
            buffers.fill_from_file_at(file.as_fd(), inside)
        })
    }

    /// Writes `buffers` to byte `offset` of the disk on.
    pub fn write(&self, offset: u64, buffers: &mut Buffers<'_>, broken_off: &dyn Fn() -> bool) -> io::Result<bool> {
        if self.read_only {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        self.transfer(offset, buffers, broken_off, |buffers, file, inside| {
            buffers.drain_to_file_at(file.as_fd(), inside)
        })
    }

    /// Gives the space of a range back to the host; it reads as zeros afterwards.
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
