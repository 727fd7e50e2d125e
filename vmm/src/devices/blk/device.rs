//! Identity, features and configuration space of the block device (sections 5.2.3 and 5.2.4).

use std::mem::offset_of;
use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, virtio_blk_config,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::super::virtio::F_COMMON;
use super::super::virtio::mmio::{Identity, copy_config};
use super::disk::{BLOCK_BYTES, Disk, SECTOR_BYTES};
use super::growth::DiskSize;
use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};

/// Maximum number of requests in flight; also limits the buffers of one request.
pub const QUEUE_SIZE: u16 = 256;

const F_SEG_MAX: u64 = 1 << VIRTIO_BLK_F_SEG_MAX;
const F_RO: u64 = 1 << VIRTIO_BLK_F_RO;
const F_BLK_SIZE: u64 = 1 << VIRTIO_BLK_F_BLK_SIZE;
const F_FLUSH: u64 = 1 << VIRTIO_BLK_F_FLUSH;
const F_DISCARD: u64 = 1 << VIRTIO_BLK_F_DISCARD;
const F_WRITE_ZEROES: u64 = 1 << VIRTIO_BLK_F_WRITE_ZEROES;

/// The configuration space ends before the fields of the features that the device does not offer.
const CONFIG_BYTES: usize = offset_of!(virtio_blk_config, max_secure_erase_sectors);

#[derive(Debug)]
pub struct BlkIdentity {
    features: u64,
    /// The configuration space without the capacity.
    config: [u8; CONFIG_BYTES],
    size: Arc<DiskSize>,
}

impl BlkIdentity {
    /// The identity of `disk`.
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
        // All descriptors except header and status.
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
        Self {
            features: F_COMMON | F_SEG_MAX | F_BLK_SIZE | changes,
            config,
            size: disk.size(),
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
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = self.config;
        let sectors = (self.size.bytes() / SECTOR_BYTES).to_le_bytes();
        for (to, from) in config.iter_mut().zip(sectors) {
            *to = from;
        }
        copy_config(&config, offset, data);
    }
    fn config_generation(&self) -> u32 {
        self.size.changes()
    }
}

const _: () = assert!(offset_of!(virtio_blk_config, capacity) == 0);
