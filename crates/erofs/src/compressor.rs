//! Compresses a file's content while it streams, with LZ4: every block is filled with as much content as goes into it, and an
//! index says for each 4096 bytes of content where they are. Whether that pays is judged by the file's first part.
//!
//! Memory is bounded, whatever the file's size. What comes out depends on the content alone, not on how it is cut into calls.

use lzzzz::lz4;

use super::error::ErofsError;
use super::format::{BLOCK, EXTENT_MAX, INDEX_HEADER, IndexEntry};

/// Whether files are compressed in an image. Either way it is an image that the other setting uses, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Compression {
    /// They are as they are.
    #[default]
    None,
    /// Those that shrink by a quarter or more are compressed with LZ4, in blocks of 4096 bytes.
    Lz4,
}

/// How much of a file is looked at to tell whether compressing it pays.
pub(super) const SAMPLE: usize = 128 * 1024;
/// Files that need no more than this are left as they are.
pub(super) const SMALL_FILE_MAX: u64 = 2 * BLOCK as u64;
/// How much content a block is filled from, as far as LZ4 looks back and uses its finer table; if all of it goes in, from
/// [`EXTENT_MAX`].
const WINDOW: usize = 64 * 1024;

/// The state of one file at a time.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    /// Content that was added; up to `done` it is in blocks.
    input: Vec<u8>,
    done: usize,
    /// How much content the next block needs to be filled from.
    window: usize,
    /// Where in the file `done` is.
    position: u64,
    /// Number of the file's first block in the image, and how many blocks it has.
    first_block: u32,
    count: u64,
    /// How many entries its index has.
    entries: u64,
    /// Blocks and index entries that nobody has taken yet.
    blocks: Vec<u8>,
    index: Vec<u8>,
}

impl Compressor {
    /// Starts a file whose blocks are written from `first_block` on.
    pub fn begin(&mut self, first_block: u32) {
        self.clear();
        self.window = WINDOW;
        self.first_block = first_block;
        (self.position, self.count, self.entries) = (0, 0, 0);
    }

    /// Forgets content and blocks.
    pub fn clear(&mut self) {
        self.input.clear();
        self.blocks.clear();
        self.index.clear();
        self.done = 0;
    }

    pub fn add(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// What was added, unless it was taken.
    pub fn content(&self) -> &[u8] {
        &self.input
    }

    /// How many blocks the file has so far.
    pub fn block_count(&self) -> Result<u32, ErofsError> {
        u32::try_from(self.count).map_err(|_| ErofsError::TooLarge)
    }

    /// Fills blocks as long as there is enough to fill them from, or, at the file's end, until all content is in one.
    pub fn run(&mut self, end_of_file: bool) -> Result<(), ErofsError> {
        loop {
            let rest = self.input.get(self.done..).unwrap_or_default();
            if rest.is_empty() || !end_of_file && rest.len() < self.window {
                break;
            }
            let source = rest.get(..rest.len().min(self.window)).unwrap_or_default();
            let mut block = [0; BLOCK];
            // What is no more than a block can stay as it is.
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
                // In front of the data, so that it ends where the block does.
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

    /// Adds what the index says of the next `length` bytes of content. They are more than a block except at the file's end, so that
    /// no two of these begin in the same 4096 bytes of content.
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
            // No more than EXTENT_MAX / BLOCK.
            let (back, ahead) = ((number - first) as u16, (next - number) as u16);
            self.push(IndexEntry::Inner { back, ahead });
        }
        Ok(())
    }

    /// Where the file ends within 4096 bytes in which nothing begins, an entry says so.
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

    /// Whether what was compressed so far needs at least a quarter less room than it would as it is, of which blocks of zeros need
    /// none. With `inline`, a partial last block would follow the inode.
    pub fn pays(&self, inline: bool) -> bool {
        // What waits for more goes into one block.
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

    /// Hands out blocks and index entries, and forgets them and their content.
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

    /// Blocks and index of a file that comes in pieces of `piece` bytes.
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
    fn the_result_does_not_depend_on_how_content_is_cut() {
        let content = [text(300_000), vec![0; 3_000_000], noise(50_001), text(77)].concat();
        let whole = compress(&content, content.len());
        for piece in [4096, 65_536, 100_003] {
            assert!(compress(&content, piece) == whole, "{piece}");
        }
    }

    #[test]
    fn zeros_shrink_as_far_as_lz4_goes_and_noise_does_not_grow() {
        let (blocks, _) = compress(&vec![0; 64 << 20], 1 << 16);
        assert!(blocks.len() <= 70 * BLOCK, "{}", blocks.len());
        let (blocks, _) = compress(&noise(1 << 20), 1 << 16);
        assert_eq!(blocks.len(), 1 << 20);
    }

    #[test]
    fn only_what_shrinks_by_a_quarter_pays() {
        let pays = |content: &[u8]| {
            let mut compressor = Compressor::default();
            compressor.begin(1);
            compressor.add(content);
            compressor.run(false).unwrap();
            compressor.pays(false)
        };
        assert!(pays(&text(SAMPLE)));
        assert!(pays(&vec![7; SAMPLE]));
        assert!(!pays(&noise(SAMPLE)));
        assert!(!pays(&vec![0; SAMPLE]), "zeros take no room as they are");
        let parts = |noisy: usize| [noise(noisy), text(SAMPLE - noisy)].concat();
        assert!(pays(&parts(SAMPLE / 8)));
        assert!(!pays(&parts(SAMPLE * 7 / 8)));
    }
}
