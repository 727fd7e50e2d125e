//! Compresses a file's content with LZ4 while it streams. Each block is filled with as much content as fits, and an
//! index records the place of each 4096 bytes of content. The file's first part decides whether the file is compressed.
//!
//! Memory is bounded for files of any size. The output depends only on the content, not on how it is split into calls.

use lzzzz::lz4;

use super::error::ErofsError;
use super::format::{BLOCK, EXTENT_MAX, INDEX_HEADER, IndexEntry};

/// Whether files in an image are compressed. Images written with either setting can be used with both.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// Files are stored uncompressed.
    #[default]
    None,
    /// Files that shrink by at least a quarter are compressed with LZ4, in blocks of 4096 bytes.
    Lz4,
}

/// How much of a file is compressed to decide whether compression saves enough space.
pub(super) const SAMPLE: usize = 128 * 1024;
/// Files up to this size are stored uncompressed.
pub(super) const SMALL_FILE_MAX: u64 = 2 * BLOCK as u64;
/// How much content a block is filled from: the distance LZ4 looks back, and small enough for its finer table. If all
/// of it fits, the block is filled from [`EXTENT_MAX`] instead.
const WINDOW: usize = 64 * 1024;

/// The state of the current file.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    /// Content added so far; the part before `done` is already in blocks.
    input: Vec<u8>,
    done: usize,
    /// How much content is needed to fill the next block.
    window: usize,
    /// Offset of `done` in the file.
    position: u64,
    /// Number of the file's first block in the image, and the file's block count.
    first_block: u32,
    count: u64,
    /// Number of index entries.
    entries: u64,
    /// Blocks and index entries that have not been taken yet.
    blocks: Vec<u8>,
    index: Vec<u8>,
}

impl Compressor {
    /// Starts a file whose blocks begin at `first_block`.
    pub fn begin(&mut self, first_block: u32) {
        self.clear();
        self.window = WINDOW;
        self.first_block = first_block;
        (self.position, self.count, self.entries) = (0, 0, 0);
    }

    /// Discards content and blocks.
    pub fn clear(&mut self) {
        self.input.clear();
        self.blocks.clear();
        self.index.clear();
        self.done = 0;
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The content added since the last take.
    pub fn content(&self) -> &[u8] {
        &self.input
    }

    /// Number of blocks of the file so far.
    pub fn block_count(&self) -> Result<u32, ErofsError> {
        u32::try_from(self.count).map_err(|_| ErofsError::TooLarge)
    }

    /// Fills blocks while there is enough content to fill one; at the end of the file, until all content is in blocks.
    pub fn run(&mut self, end_of_file: bool) -> Result<(), ErofsError> {
        loop {
            let rest = self.input.get(self.done..).unwrap_or_default();
            if rest.is_empty() || !end_of_file && rest.len() < self.window {
                break;
            }
            let source = rest.get(..rest.len().min(self.window)).unwrap_or_default();
            let mut block = [0; BLOCK];
            // Content that fits one block uncompressed is not compressed.
            let (taken, length) = match source.len() {
                0..=BLOCK => (0, 0),
                _ => lz4::compress_fill(source, &mut block).unwrap_or_default(),
            };
            if taken == self.window && self.window < EXTENT_MAX {
                self.window = EXTENT_MAX;
                continue;
            }
            self.window = WINDOW;
            let compressed = taken > BLOCK;
            let taken = if compressed {
                // Zeros go before the data, so that it ends where the block does.
                block.copy_within(..length, BLOCK - length);
                block.get_mut(..BLOCK - length).unwrap_or_default().fill(0);
                self.blocks.extend_from_slice(&block);
                taken
            } else {
                let plain = source.get(..source.len().min(BLOCK)).unwrap_or_default();
                self.blocks.extend_from_slice(plain);
                self.blocks.resize(self.blocks.len().next_multiple_of(BLOCK), 0);
                plain.len()
            };
            self.list(compressed, taken as u64)?;
            self.done += taken;
        }
        if end_of_file {
            self.list_end();
        }
        Ok(())
    }

    /// Adds index entries for the next `length` bytes of content. `length` exceeds a block except at the end of the
    /// file, so two extents never begin in the same 4096 bytes of content.
    fn list(&mut self, compressed: bool, length: u64) -> Result<(), ErofsError> {
        let block = u64::from(self.first_block) + self.count;
        let head = IndexEntry::Head {
            compressed,
            offset: (self.position % BLOCK as u64) as u16,
            block: u32::try_from(block).map_err(|_| ErofsError::TooLarge)?,
        };
        self.push(head);
        let first = self.position / BLOCK as u64;
        self.position += length;
        self.count += 1;
        let next = self.position / BLOCK as u64;
        for number in first + 1..next {
            // At most EXTENT_MAX / BLOCK.
            let (back, ahead) = ((number - first) as u16, (next - number) as u16);
            self.push(IndexEntry::Inner { back, ahead });
        }
        Ok(())
    }

    /// Adds an entry for the end of the file if no extent begins in the same 4096 bytes.
    fn list_end(&mut self) {
        if self.entries < self.position.div_ceil(BLOCK as u64) {
            let end = IndexEntry::Head {
                compressed: false,
                offset: (self.position % BLOCK as u64) as u16,
                block: 0,
            };
            self.push(end);
        }
    }

    fn push(&mut self, entry: IndexEntry) {
        self.index.extend(entry.encode());
        self.entries += 1;
    }

    /// Whether the content compressed so far takes at least a quarter less space than uncompressed, where blocks of
    /// zeros take none. With `inline`, a partial last block would follow the inode.
    pub fn is_worthwhile(&self, inline: bool) -> bool {
        // The content that waits for more will fill one block.
        let (judged, waiting) = if self.window == EXTENT_MAX {
            (self.input.len(), BLOCK)
        } else {
            (self.done, 0)
        };
        let blocks = self.input.get(..judged).unwrap_or_default().chunks(BLOCK);
        let plain: usize = blocks
            .filter(|block| block.iter().any(|byte| *byte != 0))
            .map(|block| if inline { block.len() } else { BLOCK })
            .sum();
        let compressed = self.blocks.len() + waiting + INDEX_HEADER + self.index.len();
        compressed * 4 <= plain * 3
    }

    /// Passes blocks and index entries to `each`, then discards them and their content.
    pub fn take(&mut self, each: impl FnOnce(&[u8], &[u8]) -> Result<(), ErofsError>) -> Result<(), ErofsError> {
        each(&self.blocks, &self.index)?;
        self.blocks.clear();
        self.index.clear();
        self.input.drain(..self.done);
        self.done = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::INDEX_ENTRY;
    use super::*;

    /// Blocks and index of a file that arrives in pieces of `piece` bytes.
    fn compress(content: &[u8], piece: usize) -> (Vec<u8>, Vec<u8>) {
        let mut compressor = Compressor::default();
        let (mut blocks, mut index) = (Vec::new(), Vec::new());
        compressor.begin(10);
        let mut take = |compressor: &mut Compressor| {
            let result = compressor.take(|more_blocks, more_index| {
                blocks.extend_from_slice(more_blocks);
                index.extend_from_slice(more_index);
                Ok(())
            });
            result.unwrap();
        };
        for bytes in content.chunks(piece) {
            compressor.add(bytes);
            compressor.run(false).unwrap();
            take(&mut compressor);
            assert!(compressor.content().len() < EXTENT_MAX + piece, "memory is bounded");
        }
        compressor.run(true).unwrap();
        take(&mut compressor);
        assert_eq!(compressor.block_count().unwrap() as usize * BLOCK, blocks.len());
        assert_eq!(index.len(), content.len().div_ceil(BLOCK) * INDEX_ENTRY);
        (blocks, index)
    }

    /// Bytes that no compressor can shrink.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u64;
        let next = || {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn text(length: usize) -> Vec<u8> {
        let lines = (0..).flat_map(|number: u64| format!("line {} of some text\n", number * 7919).into_bytes());
        lines.take(length).collect()
    }

    #[test]
    fn the_result_does_not_depend_on_the_chunk_sizes_of_the_input() {
        let content = [text(300_000), vec![0; 3_000_000], noise(50_001), text(77)].concat();
        let whole = compress(&content, content.len());
        for piece in [4096, 65_536, 100_003] {
            assert!(compress(&content, piece) == whole, "{piece}");
        }
    }

    #[test]
    fn zeros_compress_to_the_lz4_limit_and_noise_does_not_grow() {
        let (blocks, _) = compress(&vec![0; 64 << 20], 1 << 16);
        assert!(blocks.len() <= 70 * BLOCK, "{}", blocks.len());
        let (blocks, _) = compress(&noise(1 << 20), 1 << 16);
        assert_eq!(blocks.len(), 1 << 20);
    }

    #[test]
    fn only_content_that_shrinks_by_a_quarter_is_compressed() {
        let is_worthwhile = |content: &[u8]| {
            let mut compressor = Compressor::default();
            compressor.begin(1);
            compressor.add(content);
            compressor.run(false).unwrap();
            compressor.is_worthwhile(false)
        };
        assert!(is_worthwhile(&text(SAMPLE)));
        assert!(is_worthwhile(&vec![7; SAMPLE]));
        assert!(!is_worthwhile(&noise(SAMPLE)));
        assert!(!is_worthwhile(&vec![0; SAMPLE]), "uncompressed zeros take no space");
        let parts = |noisy: usize| [noise(noisy), text(SAMPLE - noisy)].concat();
        assert!(is_worthwhile(&parts(SAMPLE / 8)));
        assert!(!is_worthwhile(&parts(SAMPLE * 7 / 8)));
    }
}
