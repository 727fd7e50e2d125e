//! What the block device says of itself (sections 5.2.3 and 5.2.4).

use std::mem::offset_of;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, virtio_blk_config,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::Identity;
use super::disk::{BLOCK_BYTES, Disk, SECTOR_BYTES};
use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};

/// Number of requests in flight at most; also bounds the buffers of one.
pub const QUEUE_SIZE: u16 = 256;

const F_SEG_MAX: u64 = 1 << VIRTIO_BLK_F_SEG_MAX;
const F_RO: u64 = 1 << VIRTIO_BLK_F_RO;
const F_BLK_SIZE: u64 = 1 << VIRTIO_BLK_F_BLK_SIZE;
const F_FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const F_DISCARD: u64 = 1 << VIRTIO_BLK_F_DISCARD;
const F_WRITE_ZEROES: u64 = 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// The configuration ends before the fields of features that are not offered.
const CONFIG_BYTES: usize = offset_of!(virtio_blk_config, max_secure_erase_sectors);

/// Identity of a disk.
#[derive(Debug)]
pub struct BlkIdentity {
    features: u64,
    config: [u8; CONFIG_BYTES],
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
        let mut config = [0u8; CONFIG_BYTES];
        let mut put = |offset: usize, value: u32| {
            for (to, from) in config.iter_mut().skip(offset).zip(value.to_le_bytes()) {
                *to = from;
            }
        };
        let of_u64 = |value: u64| u32::try_from(value).expect("a small constant");
        let sectors = (disk.length() / SECTOR_BYTES).to_le_bytes();
        // All but header and status.
        put(offset_of!(virtio_blk_config, seg_max), u32::from(QUEUE_SIZE) - 2);
        put(offset_of!(virtio_blk_config, blk_size), of_u64(SECTOR_BYTES));
        if !disk.read_only() {
            put(offset_of!(virtio_blk_config, max_discard_sectors), MAX_RANGE_SECTORS);
            put(offset_of!(virtio_blk_config, max_discard_seg), MAX_RANGES);
            put(
                offset_of!(virtio_blk_config, discard_sector_alignment),
                of_u64(BLOCK_BYTES / SECTOR_BYTES),
            );
            put(
                offset_of!(virtio_blk_config, max_write_zeroes_sectors),
                MAX_RANGE_SECTORS,
            );
            put(offset_of!(virtio_blk_config, max_write_zeroes_seg), MAX_RANGES);
            put(offset_of!(virtio_blk_config, write_zeroes_may_unmap), 1);
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
        VIRTIO_ID_BLOCK
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
