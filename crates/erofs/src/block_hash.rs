//! The digest of an image's blocks, kept in the superblock.

use sha2::{Digest as _, Sha256};

use super::format::BLOCK;

/// Digest of an image's blocks. Blocks of zeros are skipped.
#[derive(Debug, Clone, Default)]
pub(super) struct BlockHash(Sha256);

impl BlockHash {
    /// Adds consecutive blocks, starting at block number `first`. Blocks of zeros count as absent.
    pub(super) fn blocks(&mut self, first: u64, bytes: &[u8]) {
        for (number, block) in (first..).zip(bytes.chunks(BLOCK)) {
            if block.iter().any(|byte| *byte != 0) {
                self.0.update(number.to_le_bytes());
                self.0.update(block);
            }
        }
    }

    /// The digest, truncated to the size of its superblock field.
    pub(super) fn finish(self) -> [u8; 16] {
        let digest: [u8; 32] = Sha256::finalize(self.0).into();
        digest.first_chunk().copied().unwrap_or_default()
    }
}
