//! A scratch file that is appended to and read back. It holds the data that would otherwise take memory in proportion
//! to the layer.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::error::{ErofsError, OutputError};

/// Size of the write buffer, and of the read-ahead for sequential reads.
const BUFFER: usize = 256 * 1024;
/// How far behind the end of its window a read still counts as sequential.
const GAP: u64 = 64 * 1024;

/// The file. It is read through a [`Window`]; there may be several.
#[derive(Debug)]
pub(super) struct Spill {
    file: File,
    /// Bytes in the file; the rest is still in the buffer.
    length: u64,
    pending: Vec<u8>,
}

/// A reader's position, with the data read ahead.
#[derive(Debug, Default)]
pub(super) struct Window {
    bytes: Vec<u8>,
    offset: u64,
    /// Where the last read outside the window ended.
    stray_end: u64,
}

impl Window {
    fn get(&self, offset: u64, length: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        self.bytes.get(start..start.checked_add(length)?)
    }
}

impl Spill {
    /// Uses `file`, which must be empty.
    pub fn new(file: File) -> Self {
        Self {
            file,
            length: 0,
            pending: Vec::new(),
        }
    }

    /// Position of the next appended byte.
    pub fn end(&self) -> u64 {
        self.length + self.pending.len() as u64
    }

    /// Appends the bytes and returns their position.
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, ErofsError> {
        let offset = self.end();
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BUFFER {
            self.file
                .write_all_at(&self.pending, self.length)
                .map_err(OutputError)?;
            self.length += self.pending.len() as u64;
            self.pending.clear();
        }
        Ok(offset)
    }

    /// Appends `length` bytes from `offset` to `out`.
    pub fn read(&self, window: &mut Window, offset: u64, length: usize, out: &mut Vec<u8>) -> Result<(), ErofsError> {
        let missing = || OutputError(io::ErrorKind::UnexpectedEof.into());
        let end = offset.checked_add(length as u64).ok_or_else(missing)?;
        if let Some(start) = offset.checked_sub(self.length) {
            let start = usize::try_from(start).map_err(|_| missing())?;
            let bytes = self.pending.get(start..start.saturating_add(length));
            out.extend_from_slice(bytes.ok_or_else(missing)?);
            return Ok(());
        }
        if end > self.length {
            // Half written, half still in the buffer.
            let written = (self.length - offset) as usize;
            self.read(window, offset, written, out)?;
            return self.read(window, self.length, length - written, out);
        }
        if let Some(bytes) = window.get(offset, length) {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        let window_end = window.offset + window.bytes.len() as u64;
        let goes_on = |from: u64| (from..=from.saturating_add(GAP)).contains(&offset);
        if length <= BUFFER && (goes_on(window_end) || goes_on(window.stray_end)) {
            let ahead = BUFFER.min(usize::try_from(self.length - offset).unwrap_or(BUFFER));
            window.bytes.resize(ahead, 0);
            self.file
                .read_exact_at(&mut window.bytes, offset)
                .map_err(OutputError)?;
            window.offset = offset;
            out.extend_from_slice(window.get(offset, length).ok_or_else(missing)?);
            return Ok(());
        }
        // A read elsewhere: the window stays where most reads are.
        let start = out.len();
        out.resize(start + length, 0);
        let place = out.get_mut(start..).unwrap_or_default();
        self.file.read_exact_at(place, offset).map_err(OutputError)?;
        window.stray_end = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appended_content_is_read_back_in_any_order() {
        let mut spill = Spill::new(tempfile::tempfile().unwrap());
        let piece = |number: u32| vec![number as u8; 1 + (number as usize * 37) % 900];
        let offsets: Vec<_> = (0..2000).map(|number| spill.append(&piece(number)).unwrap()).collect();
        let mut window = Window::default();
        let orders: [Vec<u32>; 3] = [
            (0..2000).collect(),
            (0..2000).rev().collect(),
            (0..2000).map(|number| number * 7919 % 2000).collect(),
        ];
        for number in orders.concat() {
            let mut out = b"x".to_vec();
            let length = piece(number).len();
            spill
                .read(&mut window, offsets[number as usize], length, &mut out)
                .unwrap();
            assert_eq!(out[1..], piece(number), "{number}");
        }
        assert!(spill.read(&mut window, spill.end(), 1, &mut Vec::new()).is_err());
    }
}
