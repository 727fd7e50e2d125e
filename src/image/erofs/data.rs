//! Content on its way to the image: whole blocks go straight to the output file, blocks of zeros become holes of it, and
//! partial last blocks of small files wait in a second file until their inodes are placed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::format::BLOCK;
use super::record::Data;
use super::spill::Spill;
use super::{BlockHash, ErofsError, OutputError};

/// What is buffered before it is written, a multiple of the block size.
const BUFFER: usize = 256 * 1024;
/// Files of at least this size keep their partial last block beside the others, so that they are read in one go.
const INLINE_FILE_MAX: u64 = 64 * 1024;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Appends blocks to the output file.
#[derive(Debug)]
pub(super) struct BlockWriter<'a> {
    file: &'a File,
    /// Block number of the buffer's start.
    block: u64,
    buffer: Vec<u8>,
    hash: BlockHash,
}

impl<'a> BlockWriter<'a> {
    /// Writes from block `block` on.
    pub fn new(file: &'a File, block: u64) -> Self {
        Self {
            file,
            block,
            buffer: Vec::with_capacity(BUFFER),
            hash: BlockHash::default(),
        }
    }

    /// The digest of all that was written.
    pub fn digest(self) -> [u8; 16] {
        self.hash.finish()
    }

    /// The next block, once the current one is full.
    pub fn next_block(&self) -> Result<u32, ErofsError> {
        let block = self.block + self.buffer.len().div_ceil(BLOCK) as u64;
        // The last number means "no block" in EROFS.
        u32::try_from(block)
            .ok()
            .filter(|block| *block != u32::MAX)
            .ok_or(ErofsError::TooLarge)
    }

    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), ErofsError> {
        while !bytes.is_empty() {
            let room = BUFFER - self.buffer.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == BUFFER {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Appends `count` zero bytes without touching the disk for whole blocks of them.
    pub fn skip(&mut self, count: u64) -> Result<(), ErofsError> {
        let to_boundary = (BLOCK - self.buffer.len() % BLOCK) % BLOCK;
        let head = count.min(to_boundary as u64);
        self.write(ZEROS.get(..head as usize).unwrap_or_default())?;
        let rest = count - head;
        let blocks = rest / BLOCK as u64;
        if blocks > 0 {
            self.flush()?;
            self.block += blocks;
            self.next_block()?;
        }
        self.write(ZEROS.get(..(rest % BLOCK as u64) as usize).unwrap_or_default())
    }

    /// Fills the current block up with zeros.
    pub fn pad(&mut self) -> Result<(), ErofsError> {
        let missing = (BLOCK - self.buffer.len() % BLOCK) % BLOCK;
        self.write(ZEROS.get(..missing).unwrap_or_default())
    }

    /// Takes the bytes of the current, partial block back out of the buffer.
    fn take_tail(&mut self) -> Vec<u8> {
        let whole = self.buffer.len() - self.buffer.len() % BLOCK;
        self.buffer.split_off(whole)
    }

    /// Writes the whole blocks of the buffer; the caller has padded the last one, or it was full.
    pub fn flush(&mut self) -> Result<(), ErofsError> {
        let mut start = 0;
        while start < self.buffer.len() {
            let run = |zero: bool| {
                let blocks = self.buffer.get(start..).unwrap_or_default().chunks(BLOCK);
                blocks
                    .take_while(|block| (ZEROS.get(..block.len()) == Some(*block)) == zero)
                    .map(<[u8]>::len)
                    .sum()
            };
            let zeros: usize = run(true);
            if zeros > 0 {
                start += zeros;
                continue;
            }
            let length: usize = run(false);
            let offset = self.block * BLOCK as u64 + start as u64;
            let bytes = self.buffer.get(start..start + length).unwrap_or_default();
            self.file.write_all_at(bytes, offset).map_err(OutputError)?;
            self.hash.blocks(offset / BLOCK as u64, bytes);
            start += length;
        }
        self.block += (self.buffer.len() / BLOCK) as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// Writes the content of files, one after the other.
#[derive(Debug)]
pub(super) struct FileWriter<'a> {
    blocks: BlockWriter<'a>,
    spill: Spill,
    first_block: u32,
    written: u64,
    room_for_tail: usize,
    /// What may still be added.
    left_bytes: u64,
    max_bytes: u64,
}

impl<'a> FileWriter<'a> {
    /// Writes to `file` behind the superblock's block, and partial blocks to `spill`, an empty file.
    pub fn new(file: &'a File, spill: File, max_bytes: u64) -> Self {
        Self {
            blocks: BlockWriter::new(file, 1),
            spill: Spill::new(spill),
            first_block: 0,
            written: 0,
            room_for_tail: 0,
            left_bytes: max_bytes,
            max_bytes,
        }
    }

    /// Starts a file beside whose inode `inode_bytes` are taken.
    pub fn begin(&mut self, inode_bytes: usize) -> Result<(), ErofsError> {
        self.first_block = self.blocks.next_block()?;
        self.written = 0;
        self.room_for_tail = BLOCK.saturating_sub(inode_bytes);
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.count(bytes.len() as u64)?;
        self.blocks.write(bytes)
    }

    pub fn skip(&mut self, count: u64) -> Result<(), ErofsError> {
        self.count(count)?;
        self.blocks.skip(count)
    }

    /// Refuses a file that will not fit, before all that comes in front of the limit is read.
    pub fn check_room(&self, bytes: u64) -> Result<(), ErofsError> {
        if bytes > self.left_bytes {
            return Err(ErofsError::TooManyBytes { limit: self.max_bytes });
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), ErofsError> {
        let limit = self.max_bytes;
        self.left_bytes = self
            .left_bytes
            .checked_sub(bytes)
            .ok_or(ErofsError::TooManyBytes { limit })?;
        self.written += bytes;
        Ok(())
    }

    /// Ends the file.
    pub fn end(&mut self) -> Result<Data, ErofsError> {
        let size = self.written;
        let mut data = Data {
            size,
            first_block: self.first_block,
            tail: None,
        };
        let partial = (size % BLOCK as u64) as usize;
        if partial == 0 {
            return Ok(data);
        }
        if size < INLINE_FILE_MAX && partial <= self.room_for_tail {
            let tail = self.blocks.take_tail();
            data.tail = Some(self.spill.append(&tail)?);
        } else {
            self.blocks.pad()?;
        }
        Ok(data)
    }

    /// Ends the content: the block writer to go on with, and what waits for the inodes.
    pub fn finish(self) -> (BlockWriter<'a>, Spill) {
        (self.blocks, self.spill)
    }
}
