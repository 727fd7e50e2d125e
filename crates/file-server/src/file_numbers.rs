//! Inode numbers for a guest that sees all shares as one file system: files of different shares and of different mounts
//! below them may have the same number on the host.
//!
//! The upper 16 bits say where a file is, the others are its number there. Almost all file systems have smaller numbers
//! than that. The upper bits of one that has not are combined, so files of two places may meet, but never two of one
//! place. Shares have their positions, so their files have the same numbers when the Pod is started again. Other places
//! are numbered when they are first seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use crate::file_status::MountedDevice;
use crate::inode::FileKey;
use crate::share::{MAX_SHARES, Shares};

/// The bits of a number within its place.
const BITS: u32 = 48;

/// Maximum number of places that are not the root of a share.
const MAX_OTHERS: usize = (1 << (u64::BITS - BITS)) - 1 - MAX_SHARES;

/// See the module's description.
#[derive(Debug, Default)]
pub struct FileNumbers {
    /// Places by their order.
    others: Mutex<HashMap<MountedDevice, usize>>,
}

impl FileNumbers {
    /// The number that the guest is told; `EOVERFLOW` if there are too many places.
    pub fn of(&self, file: &FileKey, shares: &Shares) -> Result<u64, Errno> {
        let place = match shares.position(file.device) {
            Some(position) => position,
            None => MAX_SHARES + self.other(file.device)?,
        };
        // Not 0: the number of the guest's root directory, which is 1, would be that of a file, too.
        Ok(file.inode ^ ((place as u64 + 1) << BITS))
    }

    fn other(&self, device: MountedDevice) -> Result<usize, Errno> {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let next = others.len();
        match others.get(&device) {
            Some(place) => Ok(*place),
            None if next >= MAX_OTHERS => Err(Errno::OVERFLOW),
            None => {
                others.insert(device, next);
                Ok(next)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn key(mount: u64, device: u32, inode: u64) -> FileKey {
        let device = MountedDevice {
            mount,
            device: (0, device),
        };
        FileKey { device, inode }
    }

    #[test]
    fn inodes_of_several_places_have_different_numbers_however_large_their_mounts_are() {
        let (numbers, shares) = (FileNumbers::default(), Shares::default());
        let mounts = [1, 2, 700, 65_537, 1 << 31, u64::MAX];
        let inodes = [1, 2, 3, 700, 1 << 40, (1 << BITS) - 1];
        let keys: Vec<FileKey> = mounts
            .iter()
            .flat_map(|mount| inodes.iter().map(move |inode| (*mount, *inode)))
            .flat_map(|(mount, inode)| [key(mount, 1, inode), key(mount, 2, inode)])
            .collect();
        let all = || keys.iter().map(|key| numbers.of(key, &shares).unwrap());
        let first: Vec<u64> = all().collect();
        let different: HashSet<u64> = first.iter().copied().collect();
        assert_eq!(different.len(), keys.len());
        assert!(!different.contains(&1));
        assert_eq!(all().collect::<Vec<_>>(), first);
    }

    #[test]
    fn the_number_of_places_is_bounded_and_known_ones_are_found_at_the_bound() {
        let (numbers, shares) = (FileNumbers::default(), Shares::default());
        let mut last = 0;
        for mount in 0..MAX_OTHERS as u64 {
            last = numbers.of(&key(mount, 1, 5), &shares).unwrap();
        }
        assert_eq!(last, 0xffff << BITS | 5);
        let beyond = key(MAX_OTHERS as u64, 1, 5);
        assert_eq!(numbers.of(&beyond, &shares), Err(Errno::OVERFLOW));
        assert!(numbers.of(&key(0, 1, 5), &shares).is_ok());
    }
}
