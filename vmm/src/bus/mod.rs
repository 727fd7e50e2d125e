//! Passes accesses to I/O ports, and to memory that is not RAM, to the device at that address.
//!
//! A bus is filled before the guest runs and never changes afterwards, so lookups need no lock.

use std::sync::{Arc, Mutex};

use crate::lock::lock;

/// A device with registers.
pub trait BusDevice: Send {
    /// Fills `data` from the register at `offset`. Bytes that the device does not write read as zero.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Writes `data` to the register at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// Two devices claim the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("devices overlap at {0:#x}")]
pub struct Overlap(pub u64);

struct Range {
    start: u64,
    end: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// Sorted by start, without overlaps.
    ranges: Vec<Range>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.ranges.iter().map(|range| range.start..range.end))
            .finish()
    }
}

impl Bus {
    /// Adds a device that covers `size` addresses from `start`.
    pub fn insert(&mut self, start: u64, size: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), Overlap> {
        let end = start.checked_add(size).ok_or(Overlap(start))?;
        let at = self.ranges.partition_point(|range| range.start < start);
        let before = at.checked_sub(1).and_then(|index| self.ranges.get(index));
        let overlaps =
            before.is_some_and(|range| range.end > start) || self.ranges.get(at).is_some_and(|range| range.start < end);
        if size == 0 || overlaps {
            return Err(Overlap(start));
        }
        self.ranges.insert(at, Range { start, end, device });
        Ok(())
    }

    fn find(&self, address: u64) -> Option<(&Mutex<dyn BusDevice>, u64)> {
        let at = self
            .ranges
            .partition_point(|range| range.start <= address)
            .checked_sub(1)?;
        let range = self.ranges.get(at).filter(|range| address < range.end)?;
        Some((&range.device, address - range.start))
    }

    /// Reads from a device. Where there is none, all bits are one, as on a PC's bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        let Some((device, offset)) = self.find(address) else {
            return data.fill(0xff);
        };
        data.fill(0);
        lock(device).read(offset, data);
    }

    /// Writes to a device. Where there is none, the write is ignored.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((device, offset)) = self.find(address) {
            lock(device).write(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Echo(u64);

    impl BusDevice for Echo {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = u8::try_from(offset + self.0).unwrap();
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.0 = offset + u64::from(data[0]);
        }
    }

    #[test]
    fn an_access_reaches_the_device_at_its_address() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, Arc::new(Mutex::new(Echo(0)))).unwrap();
        bus.insert(0x108, 8, Arc::new(Mutex::new(Echo(100)))).unwrap();
        let mut data = [0];
        bus.read(0x107, &mut data);
        assert_eq!(data, [7]);
        bus.read(0x108, &mut data);
        assert_eq!(data, [100]);
        bus.write(0x10a, &[5]);
        bus.read(0x108, &mut data);
        assert_eq!(data, [7]);
    }

    #[test]
    fn unmapped_addresses_read_as_all_ones() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, Arc::new(Mutex::new(Echo(0)))).unwrap();
        for address in [0, 0xff, 0x108, u64::MAX] {
            let mut data = [0; 4];
            bus.read(address, &mut data);
            assert_eq!(data, [0xff; 4]);
            bus.write(address, &data);
        }
    }

    #[test]
    fn overlapping_devices_are_refused() {
        let mut bus = Bus::default();
        bus.insert(0x100, 8, Arc::new(Mutex::new(Echo(0)))).unwrap();
        for (start, size) in [
            (0xf9, 8),
            (0x100, 1),
            (0x107, 1),
            (0x0, 0x1000),
            (0x200, 0),
            (u64::MAX, 2),
        ] {
            assert_eq!(
                bus.insert(start, size, Arc::new(Mutex::new(Echo(0)))),
                Err(Overlap(start))
            );
        }
        bus.insert(0xf8, 8, Arc::new(Mutex::new(Echo(0)))).unwrap();
    }
}
