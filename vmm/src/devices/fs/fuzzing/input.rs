//! The fuzzer's bytes, and the fields that are read from them.

use super::super::driver::{HIGH_PRIORITY, REQUESTS};

/// The rest of the fuzzer's bytes. After their end, all are 0.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(super) fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    pub(super) fn queue(&mut self) -> usize {
        if self.byte().is_multiple_of(4) {
            HIGH_PRIORITY
        } else {
            REQUESTS
        }
    }
}
