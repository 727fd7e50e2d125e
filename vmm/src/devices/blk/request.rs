//! Parses the requests of the block driver (section 5.2.6).

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD as TYPE_DISCARD, VIRTIO_BLK_T_FLUSH as TYPE_FLUSH, VIRTIO_BLK_T_GET_ID as TYPE_GET_ID,
    VIRTIO_BLK_T_IN as TYPE_IN, VIRTIO_BLK_T_OUT as TYPE_OUT, VIRTIO_BLK_T_WRITE_ZEROES as TYPE_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP as RANGE_UNMAP, virtio_blk_outhdr,
};

use super::super::virtio::GuestError;
use super::super::virtio::chain::Buffers;
use super::disk::SECTOR_BYTES;

/// Bytes of the header.
const HEADER_BYTES: usize = size_of::<virtio_blk_outhdr>();
/// Bytes of a discard segment (`struct virtio_blk_discard_write_zeroes`).
const RANGE_BYTES: usize = 16;
/// Maximum number of segments of a discard or write-zeroes request.
pub const MAX_RANGES: u32 = 64;
/// Maximum number of sectors of one segment: 1 GiB, which bounds the time of a request.
pub const MAX_RANGE_SECTORS: u32 = 1 << 21;

/// A request. Offsets and lengths are in bytes and lie on the disk.
#[derive(Debug, PartialEq, Eq)]
pub enum BlockRequest {
    /// Read from this offset.
    Read(u64),
    /// Write to this offset.
    Write(u64),
    /// Make everything written durable.
    Flush,
    /// The disk's name.
    GetId,
    /// Free the space of these ranges.
    Discard(Vec<(u64, u64)>),
    /// Make these ranges zero.
    WriteZeroes(Vec<(u64, u64)>),
    /// An operation that does not exist.
    Unsupported,
    /// The request is invalid for this disk: out of range, odd length.
    Invalid,
}

/// The offset in bytes, if `length` bytes at `sector` lie on the disk.
fn on_disk(sector: u64, length: u64, disk_length: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR_BYTES)?;
    let end = offset.checked_add(length)?;
    (end <= disk_length && length.is_multiple_of(SECTOR_BYTES)).then_some(offset)
}

/// Parses the header and consumes it from `readable`. `writable_data` is the space for data, without the status byte.
pub fn parse(readable: &mut Buffers<'_>, writable_data: usize, disk_length: u64) -> Result<BlockRequest, GuestError> {
    let mut header = [0u8; HEADER_BYTES];
    if readable.read(&mut header) != HEADER_BYTES {
        return Err(GuestError::Request("a block request shorter than its header"));
    }
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let sector = u64::from_le_bytes(sector);
    let transfer = |bytes: usize, make: fn(u64) -> BlockRequest| {
        on_disk(sector, bytes as u64, disk_length)
            .filter(|_| bytes > 0)
            .map_or(BlockRequest::Invalid, make)
    };
    Ok(match u32::from_le_bytes([a, b, c, d]) {
        TYPE_IN => transfer(writable_data, BlockRequest::Read),
        TYPE_OUT => transfer(readable.remaining(), BlockRequest::Write),
        TYPE_FLUSH => BlockRequest::Flush,
        TYPE_GET_ID => BlockRequest::GetId,
        TYPE_DISCARD => parse_ranges(readable, disk_length, 0).map_or(BlockRequest::Invalid, BlockRequest::Discard),
        TYPE_WRITE_ZEROES => {
            parse_ranges(readable, disk_length, RANGE_UNMAP).map_or(BlockRequest::Invalid, BlockRequest::WriteZeroes)
        }
        _ => BlockRequest::Unsupported,
    })
}

/// The ranges of a discard or write-zeroes request; `None` if one is too long, is not on the disk, or has a flag that
/// is not allowed.
fn parse_ranges(readable: &mut Buffers<'_>, disk_length: u64, allowed_flags: u32) -> Option<Vec<(u64, u64)>> {
    let count = readable.remaining() / RANGE_BYTES;
    if count == 0 || count > MAX_RANGES as usize || !readable.remaining().is_multiple_of(RANGE_BYTES) {
        return None;
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let mut bytes = [0u8; RANGE_BYTES];
        readable.read(&mut bytes);
        let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, f0, f1, f2, f3] = bytes;
        let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
        if u32::from_le_bytes([f0, f1, f2, f3]) & !allowed_flags != 0 || sectors > MAX_RANGE_SECTORS {
            return None;
        }
        let length = u64::from(sectors) * SECTOR_BYTES;
        let offset = on_disk(
            u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]),
            length,
            disk_length,
        )?;
        ranges.push((offset, length));
    }
    Some(ranges)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::memory::GuestMemory;

    const DISK: u64 = 1 << 20;

    fn parse_bytes(bytes: &[u8], writable: usize) -> Result<BlockRequest, GuestError> {
        parse_for(bytes, writable, DISK)
    }

    fn parse_for(bytes: &[u8], writable: usize, disk: u64) -> Result<BlockRequest, GuestError> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        memory.write_slice(bytes, GuestAddress(0)).unwrap();
        let mut readable = Buffers::default();
        readable.push(&memory, GuestAddress(0), bytes.len()).unwrap();
        parse(&mut readable, writable, disk)
    }

    fn header(kind: u32, sector: u64) -> Vec<u8> {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
    }

    fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
    }

    #[test]
    fn reads_and_writes_must_lie_on_the_disk_in_whole_sectors() {
        assert_eq!(
            parse_bytes(&header(TYPE_IN, 2047), 512).unwrap(),
            BlockRequest::Read(2047 * 512)
        );
        assert_eq!(
            parse_bytes(&header(TYPE_IN, 2047), 1024).unwrap(),
            BlockRequest::Invalid
        );
        assert_eq!(parse_bytes(&header(TYPE_IN, 0), 511).unwrap(), BlockRequest::Invalid);
        assert_eq!(parse_bytes(&header(TYPE_IN, 0), 0).unwrap(), BlockRequest::Invalid);
        assert_eq!(
            parse_bytes(&header(TYPE_IN, u64::MAX), 512).unwrap(),
            BlockRequest::Invalid
        );
        assert_eq!(
            parse_bytes(&header(TYPE_IN, u64::MAX / 512), 512).unwrap(),
            BlockRequest::Invalid
        );
        let mut write = header(TYPE_OUT, 1);
        write.extend_from_slice(&[0; 1024]);
        assert_eq!(parse_bytes(&write, 0).unwrap(), BlockRequest::Write(512));
    }

    #[test]
    fn each_range_is_checked() {
        let discard =
            |ranges: Vec<Vec<u8>>| parse_bytes(&[header(TYPE_DISCARD, 0), ranges.concat()].concat(), 0).unwrap();
        assert_eq!(
            discard(vec![range(8, 8, 0), range(0, 1, 0)]),
            BlockRequest::Discard(vec![(4096, 4096), (0, 512)])
        );
        assert_eq!(discard(vec![range(8, 8, 0), range(2048, 1, 0)]), BlockRequest::Invalid);
        assert_eq!(discard(vec![range(0, 1, 1)]), BlockRequest::Invalid);
        assert_eq!(discard(vec![]), BlockRequest::Invalid);
        assert_eq!(discard(vec![vec![0; 15]]), BlockRequest::Invalid);
        assert_eq!(discard(vec![range(0, 1, 0); 65]), BlockRequest::Invalid);
    }

    #[test]
    fn a_range_longer_than_the_device_offers_is_refused() {
        let discard = |sectors| {
            let bytes = [header(TYPE_DISCARD, 0), range(0, sectors, 0)].concat();
            parse_for(&bytes, 0, 1 << 40).unwrap()
        };
        assert_eq!(discard(MAX_RANGE_SECTORS), BlockRequest::Discard(vec![(0, 1 << 30)]));
        assert_eq!(discard(MAX_RANGE_SECTORS + 1), BlockRequest::Invalid);
    }

    #[test]
    fn unmapping_write_zeroes_are_accepted_and_unknown_types_answered() {
        let zeroes = [header(TYPE_WRITE_ZEROES, 0), range(0, 8, 1)].concat();
        assert_eq!(
            parse_bytes(&zeroes, 0).unwrap(),
            BlockRequest::WriteZeroes(vec![(0, 4096)])
        );
        assert_eq!(parse_bytes(&header(99, 0), 0).unwrap(), BlockRequest::Unsupported);
        assert!(parse_bytes(&header(0, 0)[..15], 0).is_err());
    }

    proptest! {
        #[test]
        fn accepted_requests_lie_on_the_disk(
            kind in prop_oneof![Just(0u32), Just(1), Just(11), Just(13), any::<u32>()],
            sector in prop_oneof![0u64..4096, any::<u64>()],
            rest in proptest::collection::vec(any::<u8>(), 0..128),
            writable in 0usize..8192,
        ) {
            let payload = rest.len() as u64;
            match parse_bytes(&[header(kind, sector), rest].concat(), writable).unwrap() {
                BlockRequest::Read(offset) => prop_assert!(offset + writable as u64 <= DISK),
                BlockRequest::Write(offset) => prop_assert!(offset + payload <= DISK),
                BlockRequest::Discard(ranges) | BlockRequest::WriteZeroes(ranges) => {
                    prop_assert!(ranges.iter().all(|(offset, length)| offset + length <= DISK));
                }
                _ => {}
            }
        }
    }
}
