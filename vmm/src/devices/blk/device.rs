//! What the block device says of itself (sections 5.2.3 and 5.2.4).

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;
use super::disk::{BLOCK_BYTES, Disk, SECTOR_BYTES};
use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};

const DEVICE_TYPE: u32 = 2;
/// Number of requests in flight at most; also bounds the buffers of one.
pub const QUEUE_SIZE: u16 = 256;

const F_SEG_MAX: u64 = 1 << 2;
const F_RO: u64 = 1 << 5;
const F_BLK_SIZE: u64 = 1 << 6;
const F_FLUSH: u64 = 1 << 9;
const F_DISCARD: u64 = 1 << 13;
const F_WRITE_ZEROES: u64 = 1 << 14;

/// Identity of a disk.
#[derive(Debug)]
pub struct BlkIdentity {
    features: u64,
    config: [u8; 60],
}

impl BlkIdentity {
    /// What is said of `disk`.
    #[must_use]
    pub fn new(disk: &Disk) -> Self {
        let changes = if disk.read_only() {
            F_RO
        } else {
            F_FLUSH | F_DISCARD | F_WRITE_ZEROES
        };
        let mut config = [0u8; 60];
        let mut put = |offset: usize, value: u32| {
            for (to, from) in config.iter_mut().skip(offset).zip(value.to_le_bytes()) {
                *to = from;
            }
        };
        let sectors = (disk.length() / SECTOR_BYTES).to_le_bytes();
        put(12, u32::from(QUEUE_SIZE) - 2); // seg_max: all but header and status
        put(20, u32::try_from(SECTOR_BYTES).unwrap_or(512));
        if !disk.read_only() {
            put(36, MAX_RANGE_SECTORS);
            put(40, MAX_RANGES);
            put(44, u32::try_from(BLOCK_BYTES / SECTOR_BYTES).unwrap_or(8)); // discard_sector_alignment
            put(48, MAX_RANGE_SECTORS);
            put(52, MAX_RANGES);
            put(56, 1); // write_zeroes_may_unmap
        }
        for (to, from) in config.iter_mut().zip(sectors) {
            *to = from;
        }
        Self {
            features: F_COMMON | F_SEG_MAX | F_BLK_SIZE | changes,
            config,
        }
    }
}

impl Identity for BlkIdentity {
    fn device_type(&self) -> u32 {
        DEVICE_TYPE
    }
    fn features(&self) -> u64 {
        self.features
    }
    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
}
