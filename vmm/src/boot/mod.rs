//! Prepares guest memory for the first instruction: kernel, initramfs, boot parameters, MP table.
//!
//! This follows Linux's 64-bit boot protocol (Documentation/arch/x86/boot.rst). Processor state is in [`crate::cpu`].

use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::GuestMemory;

mod error;
pub mod layout;
mod mptable;
mod params;

pub use error::BootError;
use params::Initramfs;

#[derive(Debug)]
pub struct BootSource<'a> {
    /// ELF vmlinux.
    pub kernel: &'a mut File,
    pub initramfs: Option<&'a mut File>,
    /// The complete command line.
    pub cmdline: &'a str,
}

/// Loads everything and returns the address of the guest's first instruction.
///
/// `interrupt_lines` are the I/O APIC's lines that have a device.
pub fn load(
    memory: &GuestMemory,
    source: BootSource<'_>,
    vcpu_count: u8,
    interrupt_lines: &[u8],
) -> Result<GuestAddress, BootError> {
    let loaded =
        Elf::load(memory, None, source.kernel, Some(GuestAddress(layout::HIGH_MEMORY))).map_err(BootError::Kernel)?;
    if loaded.kernel_load.raw_value() >= layout::IDENTITY_MAPPED {
        return Err(BootError::Entry(loaded.kernel_load.raw_value()));
    }
    let initramfs = source
        .initramfs
        .map(|file| load_initramfs(memory, file, loaded.kernel_end))
        .transpose()?;
    params::write(memory, source.cmdline, initramfs)?;
    mptable::write(memory, vcpu_count, interrupt_lines)?;
    Ok(loaded.kernel_load)
}

/// Puts the initramfs at the end of the memory below the gap, because the kernel's own memory (bss, early page tables)
/// follows its image and must not be overlapped.
fn load_initramfs(memory: &GuestMemory, file: &mut File, kernel_end: u64) -> Result<Initramfs, BootError> {
    const PAGE: u64 = 4096;
    let size = file.metadata().map_err(BootError::ReadInitramfs)?.size();
    let too_large = BootError::InitramfsSize { size };
    let low_end = memory.find_region(GuestAddress(0)).map_or(0, GuestMemoryRegion::len);
    let Some(address) = low_end.checked_sub(size).map(|start| start & !(PAGE - 1)) else {
        return Err(too_large);
    };
    if address < kernel_end {
        return Err(too_large);
    }
    let (Ok(start), Ok(length), Ok(count)) = (u32::try_from(address), u32::try_from(size), usize::try_from(size))
    else {
        return Err(too_large);
    };
    file.seek(SeekFrom::Start(0)).map_err(BootError::ReadInitramfs)?;
    memory
        .read_exact_volatile_from(GuestAddress(address), file, count)
        .map_err(BootError::CopyInitramfs)?;
    Ok(Initramfs {
        address: start,
        size: length,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn an_initramfs_is_page_aligned_at_the_end_of_low_memory() {
        let memory = crate::memory::map(32).unwrap();
        let mut file = file_of(&[7u8; 5000]);
        let initramfs = load_initramfs(&memory, &mut file, 0).unwrap();
        assert_eq!(
            initramfs,
            Initramfs {
                address: (32 << 20) - 8192,
                size: 5000
            }
        );
        let last: u8 = memory
            .read_obj(GuestAddress(u64::from(initramfs.address) + 4999))
            .unwrap();
        assert_eq!(last, 7);
    }

    #[test]
    fn an_initramfs_that_would_overlap_the_kernel_is_refused() {
        let memory = crate::memory::map(32).unwrap();
        let mut file = file_of(&[7u8; 5000]);
        assert!(matches!(
            load_initramfs(&memory, &mut file, (32 << 20) - 4096),
            Err(BootError::InitramfsSize { size: 5000 })
        ));
    }

    #[test]
    fn a_file_that_is_not_elf_is_not_a_kernel() {
        let memory = crate::memory::map(32).unwrap();
        let mut kernel = file_of(&[0x1f; 4096]);
        let source = BootSource {
            kernel: &mut kernel,
            initramfs: None,
            cmdline: "",
        };
        assert!(matches!(load(&memory, source, 1, &[4]), Err(BootError::Kernel(_))));
    }
}
