//! The layout of the guest's physical memory at boot.

/// The GDT of the boot processor.
pub const GDT: u64 = 0x500;
/// An empty IDT.
pub const IDT: u64 = 0x520;
/// `struct boot_params`, the "zero page".
pub const ZERO_PAGE: u64 = 0x7000;
/// Top of the boot stack.
pub const BOOT_STACK: u64 = 0x8ff0;
/// Page map level 4; the two lower levels follow, 4 KiB each.
pub const PML4: u64 = 0x9000;
/// Page directory pointer table.
pub const PDPT: u64 = 0xa000;
/// Page directory: identity map of the first GiB with pages of 2 MiB.
pub const PAGE_DIRECTORY: u64 = 0xb000;
/// How much memory the boot page tables map, in bytes.
pub const IDENTITY_MAPPED: u64 = 1 << 30;
/// The kernel's command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Maximum length of the command line in bytes, with its terminating zero: x86's `COMMAND_LINE_SIZE`.
pub const CMDLINE_MAX: usize = 2048;
/// End of usable low memory, and address of the MP table: Linux looks for it in the last KiB below 640 KiB.
pub const MPTABLE: u64 = 0x9_fc00;
/// End of the space for the MP table.
pub const MPTABLE_END: u64 = 0xa_0000;
/// First address above the legacy area; no part of the kernel may lie below it.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// The I/O APIC.
pub const IOAPIC: u32 = 0xfec0_0000;
/// The local APICs.
pub const LAPIC: u32 = 0xfee0_0000;
/// Maximum number of interrupt lines of the I/O APIC.
pub const IRQ_COUNT: u8 = 24;
/// Three pages that KVM needs on Intel processors; [`KVM_IDENTITY_MAP`] is the page below them.
pub const KVM_TSS: usize = 0xfffb_d000;
/// The page for KVM's identity map, below [`KVM_TSS`].
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;

/// First address of the virtio-mmio devices, one page each.
pub const VIRTIO_MMIO: u64 = crate::memory::MMIO_GAP_START;
/// Size of a virtio-mmio device's registers in bytes.
pub const VIRTIO_MMIO_SIZE: u64 = 0x1000;
/// Interrupt line of the serial port, as on every PC.
pub const SERIAL_IRQ: u32 = 4;
/// First interrupt line of the virtio devices.
pub const VIRTIO_IRQ_FIRST: u32 = 5;
