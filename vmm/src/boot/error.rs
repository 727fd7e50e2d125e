//! Why a guest could not be loaded.

use super::layout;

/// Why a guest could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The kernel is no ELF file that fits.
    #[error("cannot load the guest kernel: it must be an uncompressed x86-64 ELF vmlinux that fits guest memory")]
    Kernel(#[source] linux_loader::loader::Error),
    /// The entry point is not where the boot page tables map memory.
    #[error("the guest kernel's entry point {0:#x} lies outside the first GiB")]
    Entry(u64),
    /// The initramfs cannot be read.
    #[error("cannot read the initramfs")]
    ReadInitramfs(#[source] std::io::Error),
    /// It does not fit.
    #[error(
        "the initramfs of {size} bytes does not fit beside the kernel into guest memory: give the guest more memory"
    )]
    InitramfsSize {
        /// Bytes.
        size: u64,
    },
    /// Copying it failed.
    #[error("cannot copy the initramfs into guest memory")]
    CopyInitramfs(#[source] vm_memory::GuestMemoryError),
    /// Command line too long.
    #[error("the kernel command line has {0} bytes, more than the {max} the kernel reads", max = layout::CMDLINE_MAX - 1)]
    CmdlineTooLong(usize),
    /// Command line with a zero byte.
    #[error("the kernel command line contains a zero byte")]
    CmdlineZero,
    /// More processors than the MP table has room for.
    #[error("{0} virtual CPUs are more than the MP table can hold")]
    TooManyVcpus(u8),
    /// Guest memory is too small for the tables, which the size check excludes.
    #[error("cannot write boot tables into guest memory")]
    WriteTables(#[source] vm_memory::GuestMemoryError),
}
