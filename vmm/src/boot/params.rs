//! `struct boot_params`: describes memory, initramfs and command line to the kernel
//! (Documentation/arch/x86/{boot,zero-page}.rst).

use linux_loader::loader::bootparam::{boot_e820_entry, boot_params};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::error::BootError;
use super::layout;
use crate::memory::GuestMemory;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// "HdrS".
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader` of a loader without an assigned id.
const LOADER_UNDEFINED: u8 = 0xff;

/// Where the initramfs lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Initramfs {
    pub address: u32,
    pub size: u32,
}

/// The memory map: usable low memory, the legacy hole, the rest.
fn memory_map(memory: &GuestMemory) -> Vec<boot_e820_entry> {
    let mut map = vec![
        boot_e820_entry {
            addr: 0,
            size: layout::MPTABLE,
            r#type: E820_RAM,
        },
        boot_e820_entry {
            addr: layout::MPTABLE,
            size: layout::HIGH_MEMORY - layout::MPTABLE,
            r#type: E820_RESERVED,
        },
    ];
    for region in memory.iter() {
        let start = region.start_addr().raw_value().max(layout::HIGH_MEMORY);
        let end = region.start_addr().raw_value() + region.len();
        map.push(boot_e820_entry {
            addr: start,
            size: end.saturating_sub(start),
            r#type: E820_RAM,
        });
    }
    map
}

fn build(memory: &GuestMemory, cmdline_len: u32, initramfs: Option<Initramfs>) -> boot_params {
    let mut params = boot_params::default();
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.boot_flag = 0xaa55;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.kernel_alignment = 0x0100_0000;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).unwrap_or(0);
    params.hdr.cmdline_size = cmdline_len;
    if let Some(initramfs) = initramfs {
        params.hdr.ramdisk_image = initramfs.address;
        params.hdr.ramdisk_size = initramfs.size;
    }
    let map = memory_map(memory);
    for (slot, entry) in params.e820_table.iter_mut().zip(&map) {
        *slot = *entry;
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(u8::MAX);
    params
}

pub(super) fn write(memory: &GuestMemory, cmdline: &str, initramfs: Option<Initramfs>) -> Result<(), BootError> {
    if cmdline.len() >= layout::CMDLINE_MAX {
        return Err(BootError::CmdlineTooLong(cmdline.len()));
    }
    if cmdline.bytes().any(|byte| byte == 0) {
        return Err(BootError::CmdlineZero);
    }
    let mut bytes = cmdline.as_bytes().to_vec();
    bytes.push(0);
    memory
        .write_slice(&bytes, GuestAddress(layout::CMDLINE))
        .map_err(BootError::WriteTables)?;
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    memory
        .write_obj(build(memory, len, initramfs), GuestAddress(layout::ZERO_PAGE))
        .map_err(BootError::WriteTables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_map_covers_ram_without_the_legacy_hole_and_the_mmio_gap() {
        let memory = crate::memory::map(4096).unwrap();
        let map = memory_map(&memory);
        let ram: Vec<(u64, u64)> = map
            .iter()
            .filter(|entry| entry.r#type == E820_RAM)
            .map(|entry| (entry.addr, entry.addr + entry.size))
            .collect();
        assert_eq!(ram, vec![(0, 0x9_fc00), (0x10_0000, 3 << 30), (4 << 30, 5 << 30)]);
    }

    #[test]
    fn a_command_line_that_the_kernel_would_truncate_is_refused() {
        let memory = crate::memory::map(32).unwrap();
        assert!(write(&memory, &"a".repeat(2047), None).is_ok());
        assert!(matches!(
            write(&memory, &"a".repeat(2048), None),
            Err(BootError::CmdlineTooLong(2048))
        ));
        assert!(matches!(write(&memory, "a\0b", None), Err(BootError::CmdlineZero)));
    }
}
