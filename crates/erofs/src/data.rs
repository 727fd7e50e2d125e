//! Writes file content. Whole blocks go straight to the output file, and blocks of zeros become holes. The partial last
//! blocks of small files and the indexes of compressed files wait in a second file until their inodes are placed.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::block_hash::BlockHash;
use super::compressor::{Compression, Compressor, SAMPLE, SMALL_FILE_MAX};
use super::error::{ErofsError, OutputError};
use super::format::BLOCK;
use super::record::{Data, Place};
use super::spill::Spill;

/// Bytes of content copied at once.
pub(super) const COPY_BUFFER: usize = 64 * 1024;
/// Size of the write buffer, a multiple of the block size.
const BUFFER: usize = 256 * 1024;
/// Files of at least this size keep their partial last block next to the others, so that they are read in one go.
const INLINE_FILE_MAX: u64 = 64 * 1024;
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// Appends blocks to the output file.
#[derive(Debug)]
pub(super) struct BlockWriter<'a> {
    file: &'a File,
    /// Block number at the start of the buffer.
    block: u64,
    buffer: Vec<u8>,
    hash: BlockHash,
}

impl<'a> BlockWriter<'a> {
    /// Writes starting at block `block`.
    pub fn new(file: &'a File, block: u64) -> Self {
        Self {
            file,
            block,
            buffer: Vec::with_capacity(BUFFER),
            hash: BlockHash::default(),
        }
    }

    /// The digest of everything written.
    pub fn digest(self) -> [u8; 16] {
        self.hash.finish()
    }

    /// The number of the next block; the current block must be full.
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

    /// Appends `count` zero bytes. Whole blocks of zeros are not written to disk.
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

    /// Fills the current block with zeros.
    pub fn pad(&mut self) -> Result<(), ErofsError> {
        let missing = (BLOCK - self.buffer.len() % BLOCK) % BLOCK;
        self.write(ZEROS.get(..missing).unwrap_or_default())
    }

    /// Removes the bytes of the current, partial block from the buffer and returns them.
    fn take_tail(&mut self) -> Vec<u8> {
        let whole = self.buffer.len() - self.buffer.len() % BLOCK;
        self.buffer.split_off(whole)
    }

    /// Writes the buffer, which must end at a block boundary.
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

/// Writes the content of files, one after another.
#[derive(Debug)]
pub(super) struct FileWriter<'a> {
    blocks: BlockWriter<'a>,
    spill: Spill,
    compression: Compression,
    compressor: Compressor,
    /// How the current file is written.
    way: Way,
    any_compressed: bool,
    first_block: u32,
    written: u64,
    room_for_tail: usize,
    /// Content that may still be added.
    left_bytes: u64,
    max_bytes: u64,
}

/// How a file's content is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    /// Not decided yet: the compressor holds the content so far.
    Undecided,
    /// Compressed; the index is at this offset of the spill.
    Compressed {
        index: u64,
    },
}

/// The result of writing all content.
#[derive(Debug)]
pub(super) struct Written<'a> {
    /// Continues the output after the content.
    pub blocks: BlockWriter<'a>,
    /// Data that waits for the inodes.
    pub spill: Spill,
    /// Whether any file is compressed.
    pub compressed: bool,
}

impl<'a> FileWriter<'a> {
    /// Writes content to `file`, after the superblock's block, and data that waits for the inodes to `spill`, an empty
    /// file.
    pub fn new(file: &'a File, spill: File, max_bytes: u64, compression: Compression) -> Self {
        Self {
            blocks: BlockWriter::new(file, 1),
            spill: Spill::new(spill),
            compression,
            compressor: Compressor::default(),
            way: Way::Plain,
            any_compressed: false,
            first_block: 0,
            written: 0,
            room_for_tail: 0,
            left_bytes: max_bytes,
            max_bytes,
        }
    }

    /// Starts a file whose inode and attributes take `inode_bytes`. A file with holes is not compressed: holes take no
    /// space only in uncompressed files.
    pub fn begin(&mut self, inode_bytes: usize, holes: bool) -> Result<(), ErofsError> {
        self.first_block = self.blocks.next_block()?;
        self.written = 0;
        self.room_for_tail = BLOCK.saturating_sub(inode_bytes);
        self.way = match self.compression {
            Compression::Lz4 if !holes => {
                self.compressor.begin(self.first_block);
                Way::Undecided
            }
            _ => Way::Plain,
        };
        Ok(())
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.count(bytes.len() as u64)?;
        let mut rest = bytes;
        if self.way == Way::Undecided {
            // The decision uses exactly this much content, however it is split into calls.
            let missing = SAMPLE.saturating_sub(self.compressor.content().len());
            let (sample, later) = bytes.split_at(missing.min(bytes.len()));
            rest = later;
            self.compressor.add(sample);
            if self.compressor.content().len() < SAMPLE {
                return Ok(());
            }
            self.compressor.run(false)?;
            self.decide(false)?;
        }
        if self.way == Way::Plain {
            return self.blocks.write(rest);
        }
        self.compressor.add(rest);
        self.compressor.run(false)?;
        self.take_compressed()
    }

    /// Appends a hole; `begin` must have been told that the file has holes.
    pub fn skip(&mut self, count: u64) -> Result<(), ErofsError> {
        debug_assert_eq!(self.way, Way::Plain);
        self.count(count)?;
        self.blocks.skip(count)
    }

    /// Decides whether the file is compressed, from the result for its first part.
    fn decide(&mut self, inline: bool) -> Result<(), ErofsError> {
        if self.compressor.is_worthwhile(inline) {
            let index = self.spill.end();
            self.way = Way::Compressed { index };
            self.any_compressed = true;
            return self.take_compressed();
        }
        self.way = Way::Plain;
        self.blocks.write(self.compressor.content())?;
        self.compressor.clear();
        Ok(())
    }

    fn take_compressed(&mut self) -> Result<(), ErofsError> {
        self.compressor.take(|blocks, index| {
            self.blocks.write(blocks)?;
            self.spill.append(index)?;
            Ok(())
        })
    }

    /// Refuses a file that will exceed the limit before reading its content.
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

    pub fn end(&mut self) -> Result<Data, ErofsError> {
        let size = self.written;
        let partial = (size % BLOCK as u64) as usize;
        let inline = partial > 0 && size < INLINE_FILE_MAX && partial <= self.room_for_tail;
        match self.way {
            Way::Plain => {}
            Way::Undecided if size <= SMALL_FILE_MAX => {
                self.way = Way::Plain;
                self.blocks.write(self.compressor.content())?;
            }
            Way::Undecided => {
                self.compressor.run(true)?;
                self.decide(inline)?;
            }
            Way::Compressed { .. } => {
                self.compressor.run(true)?;
                self.take_compressed()?;
            }
        }
        if let Way::Compressed { index } = self.way {
            let blocks = self.compressor.block_count()?;
            let place = Place::Compressed { blocks, index };
            return Ok(Data { size, place });
        }
        let mut tail = None;
        if inline {
            tail = Some(self.spill.append(&self.blocks.take_tail())?);
        } else {
            self.blocks.pad()?;
        }
        let first_block = self.first_block;
        let place = Place::Plain { first_block, tail };
        Ok(Data { size, place })
    }

    pub fn finish(self) -> Written<'a> {
        Written {
            blocks: self.blocks,
            spill: self.spill,
            compressed: self.any_compressed,
        }
    }
}
