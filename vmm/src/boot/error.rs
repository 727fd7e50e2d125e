//! Errors from loading a guest.

use super::layout;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("cannot load the guest kernel: it must be an uncompressed x86-64 ELF vmlinux that fits in guest memory")]
    Kernel(#[source] linux_loader::loader::Error),
    /// The entry point is outside the memory that the boot page tables map.
    #[error("the guest kernel's entry point {0:#x} lies outside the first GiB")]
    Entry(u64),
    #[error("cannot read the initramfs")]
    ReadInitramfs(#[source] std::io::Error),
    #[error(
        "the initramfs of {size} bytes does not fit into guest memory beside the kernel: give the guest more memory"
    )]
    InitramfsSize { size: u64 },
    #[error("cannot copy the initramfs into guest memory")]
    CopyInitramfs(#[source] vm_memory::GuestMemoryError),
    #[error("the kernel command line has {0} bytes; the kernel reads at most {max}", max = layout::CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    #[error("the kernel command line contains a zero byte")]
    CmdlineZero,
    #[error("{0} virtual CPUs do not fit into the MP table")]
    TooManyVcpus(u8),
    /// Guest memory is too small for the tables; the minimum memory size rules this out.
    #[error("cannot write boot tables into guest memory")]
    WriteTables(#[source] vm_memory::GuestMemoryError),
}
