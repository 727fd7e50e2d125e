//! The digest that an image's superblock has of its blocks.

use sha2::{Digest as _, Sha256};

use super::format::BLOCK;

/// Digest of an image's blocks, those of zeros left out.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockHash(Sha256);

impl BlockHash {
    /// Adds consecutive blocks, the first of them number `first`. Blocks of zeros count as absent.
    pub(super) fn blocks(&mut self, first: u64, bytes: &[u8]) {
        for (number, block) in (first..).zip(bytes.chunks(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                self.0.update(number.to_le_bytes());
                self.0.update(block);
            }
        }
    }

    /// The digest, cut to what a superblock has room for.
    pub(super) fn finish(self) -> [u8; 16] {
        let digest: [u8; 32] = Sha256::finalize(self.0).into();
        digest.first_chunk().copied().unwrap_or_default()
    }
}
