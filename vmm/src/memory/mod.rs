//! Guest RAM: its layout in the guest's physical address space, its mapping in this process, and
//! its registration with KVM.
//!
//! The content of RAM at boot is in [`crate::boot`].

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, GuestRegionMmap};

/// The guest's RAM as this process maps it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// First address of the gap below 4 GiB, which holds the devices and the interrupt controllers.
pub const MMIO_GAP_START: u64 = 0xc000_0000;

/// First address above the gap.
pub const MMIO_GAP_END: u64 = 1 << 32;

/// Minimum RAM that a Linux guest can boot with, in MiB.
pub const MIN_MEM_SIZE_MIB: u32 = 32;

/// Maximum RAM of a guest in MiB: 4 TiB, far below the 46 bits of physical address that every KVM host has.
pub const MAX_MEM_SIZE_MIB: u32 = 4 << 20;

/// Why guest RAM could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    #[error("invalid guest memory size of {0} MiB: it must be between {MIN_MEM_SIZE_MIB} and {MAX_MEM_SIZE_MIB} MiB")]
    Size(u32),
    #[error("cannot map {size} bytes of guest memory")]
    Map {
        size: u64,
        #[source]
        source: vm_memory::mmap::MmapRegionError,
    },
    /// The regions contradict each other, which is a bug.
    #[error("cannot lay out guest memory")]
    Layout(#[source] vm_memory::GuestRegionCollectionError),
    #[error("KVM refused guest memory at {address:#x}, {size} bytes (KVM_SET_USER_MEMORY_REGION)")]
    Register {
        /// Guest physical address.
        address: u64,
        size: u64,
        #[source]
        source: kvm_ioctls::Error,
    },
}

/// The physical address ranges of `mem_size_mib` MiB of RAM: below the gap, and the rest from 4 GiB on.
fn ranges(mem_size_mib: u32) -> Vec<(GuestAddress, u64)> {
    let size = u64::from(mem_size_mib) << 20;
    if size <= MMIO_GAP_START {
        vec![(GuestAddress(0), size)]
    } else {
        vec![
            (GuestAddress(0), MMIO_GAP_START),
            (GuestAddress(MMIO_GAP_END), size - MMIO_GAP_START),
        ]
    }
}

/// Maps guest RAM. A page uses no memory until the guest touches it.
pub fn map(mem_size_mib: u32) -> Result<GuestMemory, MemoryError> {
    if !(MIN_MEM_SIZE_MIB..=MAX_MEM_SIZE_MIB).contains(&mem_size_mib) {
        return Err(MemoryError::Size(mem_size_mib));
    }
    let mut regions = Vec::with_capacity(2);
    for (start, size) in ranges(mem_size_mib) {
        let bytes = usize::try_from(size).map_err(|_| MemoryError::Size(mem_size_mib))?;
        let mapping = MmapRegionBuilder::new(bytes)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
            .build()
            .map_err(|source| MemoryError::Map { size, source })?;
        regions.push(GuestRegionMmap::new(mapping, start).ok_or(MemoryError::Size(mem_size_mib))?);
    }
    GuestMemory::from_regions(regions).map_err(MemoryError::Layout)
}

/// Registers guest RAM with KVM. The mapping must outlive the VM: the caller keeps `memory` as long as `vm`.
pub fn register(vm: &VmFd, memory: &GuestMemory) -> Result<(), MemoryError> {
    for (slot, region) in (0u32..).zip(memory.iter()) {
        let (address, size) = (region.start_addr().raw_value(), region.len());
        let kvm_region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: address,
            memory_size: size,
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY: the range is one of our mappings, `memory` keeps it alive, and it contains only guest RAM.
        unsafe { vm.set_user_memory_region(kvm_region) }.map_err(|source| MemoryError::Register {
            address,
            size,
            source,
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_up_to_the_gap_is_one_region() {
        assert_eq!(ranges(3072), vec![(GuestAddress(0), 3 << 30)]);
    }

    #[test]
    fn memory_beyond_the_gap_continues_at_4_gib() {
        assert_eq!(
            ranges(4096),
            vec![(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 1 << 30)]
        );
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(matches!(map(0), Err(MemoryError::Size(0))));
        assert!(matches!(map(MAX_MEM_SIZE_MIB + 1), Err(MemoryError::Size(_))));
    }

    #[test]
    fn mapped_memory_has_the_requested_size() {
        let memory = map(5000).unwrap();
        assert_eq!(memory.iter().map(GuestMemoryRegion::len).sum::<u64>(), 5000 << 20);
        assert!(memory.find_region(GuestAddress(MMIO_GAP_START)).is_none());
    }
}
