//! Virtual CPUs: their identity and state at boot, and the threads that run them.

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestAddress;

pub mod cpuid;
mod error;
pub mod registers;
pub mod vcpu;

pub use error::CpuError;

/// Creates and configures one virtual CPU. Only the boot processor gets an `entry`; the others wait
/// for its start-up interrupt.
pub fn create(
    vm: &VmFd,
    id: u8,
    supported: &CpuId,
    topology: cpuid::Topology,
    entry: Option<GuestAddress>,
) -> Result<VcpuFd, CpuError> {
    let vcpu = vm
        .create_vcpu(u64::from(id))
        .map_err(|source| CpuError::Create { id, source })?;
    vcpu.set_cpuid2(&cpuid::for_vcpu(supported, id, topology))
        .map_err(|source| CpuError::Cpuid { id, source })?;
    registers::set_msrs(&vcpu)?;
    if let Some(entry) = entry {
        registers::set_boot_state(&vcpu, entry)?;
    }
    Ok(vcpu)
}
