//! Register state of the boot processor: long mode with paging enabled, as required by Linux's 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Address, Bytes, GuestAddress};

use super::error::CpuError;
use crate::boot::layout;
use crate::memory::GuestMemory;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TSS_SELECTOR: u16 = 0x20;

/// Flat segments: two null descriptors, 64-bit code, data, a busy TSS of 64 KiB.
const GDT: [u64; 5] = [
    0,
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x008f_8b00_0000_ffff,
];

/// Page table entry: present and writable.
const PTE_TABLE: u64 = 3;
/// A present and writable page of 2 MiB.
const PTE_LARGE: u64 = 0x83;

const MSR_IA32_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEF_TYPE: u32 = 0x2ff;
/// MTRRs enabled, all memory write-back.
const MTRR_ENABLE_WRITE_BACK: u64 = (1 << 11) | 6;

fn code_segment() -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    }
}

fn data_segment() -> kvm_segment {
    kvm_segment {
        selector: DATA_SELECTOR,
        type_: 3,
        db: 1,
        l: 0,
        ..code_segment()
    }
}

fn tss_segment() -> kvm_segment {
    kvm_segment {
        limit: 0xffff,
        selector: TSS_SELECTOR,
        type_: 0xb,
        present: 1,
        ..Default::default()
    }
}

/// Writes the GDT, an empty IDT and page tables that identity-map the first GiB.
pub fn write_tables(memory: &GuestMemory) -> Result<(), CpuError> {
    let write = |value: u64, address: u64| {
        memory
            .write_obj(value, GuestAddress(address))
            .map_err(CpuError::WriteTables)
    };
    for (entry, address) in GDT.iter().zip((layout::GDT..).step_by(8)) {
        write(*entry, address)?;
    }
    write(0, layout::IDT)?;
    write(layout::PDPT | PTE_TABLE, layout::PML4)?;
    write(layout::PAGE_DIRECTORY | PTE_TABLE, layout::PDPT)?;
    let mut directory = Vec::with_capacity(4096);
    for page in 0..512u64 {
        directory.extend_from_slice(&((page << 21) | PTE_LARGE).to_le_bytes());
    }
    memory
        .write_slice(&directory, GuestAddress(layout::PAGE_DIRECTORY))
        .map_err(CpuError::WriteTables)
}

/// Makes the boot processor start at the kernel's entry point.
pub fn set_boot_state(vcpu: &VcpuFd, entry: GuestAddress) -> Result<(), CpuError> {
    let mut sregs = vcpu.get_sregs().map_err(|source| CpuError::Registers {
        what: "KVM_GET_SREGS",
        source,
    })?;
    sregs.cs = code_segment();
    (sregs.ds, sregs.es, sregs.fs) = (data_segment(), data_segment(), data_segment());
    (sregs.gs, sregs.ss) = (data_segment(), data_segment());
    sregs.tr = tss_segment();
    (sregs.gdt.base, sregs.gdt.limit) = (layout::GDT, 8 * 5 - 1);
    (sregs.idt.base, sregs.idt.limit) = (layout::IDT, 7);
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = layout::PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
    vcpu.set_sregs(&sregs).map_err(|source| CpuError::Registers {
        what: "KVM_SET_SREGS",
        source,
    })?;
    let regs = kvm_regs {
        rip: entry.raw_value(),
        rsp: layout::BOOT_STACK,
        rbp: layout::BOOT_STACK,
        rsi: layout::ZERO_PAGE,
        rflags: 2, // Bit 1 is always set.
        ..Default::default()
    };
    vcpu.set_regs(&regs).map_err(|source| CpuError::Registers {
        what: "KVM_SET_REGS",
        source,
    })
}

/// Sets the MSRs that firmware would have changed from their reset values.
pub fn set_msrs(vcpu: &VcpuFd) -> Result<(), CpuError> {
    let entries = [
        kvm_msr_entry {
            index: MSR_IA32_MISC_ENABLE,
            data: MISC_ENABLE_FAST_STRING,
            ..Default::default()
        },
        kvm_msr_entry {
            index: MSR_MTRR_DEF_TYPE,
            data: MTRR_ENABLE_WRITE_BACK,
            ..Default::default()
        },
    ];
    let msrs = Msrs::from_entries(&entries).map_err(|_| CpuError::Msrs {
        set: 0,
        wanted: entries.len(),
    })?;
    let set = vcpu.set_msrs(&msrs).map_err(|source| CpuError::Registers {
        what: "KVM_SET_MSRS",
        source,
    })?;
    if set != entries.len() {
        return Err(CpuError::Msrs {
            set,
            wanted: entries.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_tables_identity_map_the_first_gib() {
        let memory = crate::memory::map(32).unwrap();
        write_tables(&memory).unwrap();
        let read = |address| memory.read_obj::<u64>(GuestAddress(address)).unwrap();
        assert_eq!(read(layout::PML4), 0xa003);
        assert_eq!(read(layout::PDPT), 0xb003);
        assert_eq!(read(layout::PAGE_DIRECTORY + 8 * 511), (511 << 21) | 0x83);
    }
}
