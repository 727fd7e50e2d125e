//! Virtual CPUs: their identity and state at boot, and the threads that run them.

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::GuestAddress;

pub mod cpuid;
pub mod registers;
pub mod vcpu;

/// Why a virtual CPU could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// KVM created none.
    #[error("cannot create virtual CPU {id} (KVM_CREATE_VCPU)")]
    Create {
        /// Its number.
        id: u8,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// CPUID refused.
    #[error("KVM refused the CPUID of virtual CPU {id} (KVM_SET_CPUID2)")]
    Cpuid {
        /// Its number.
        id: u8,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A register ioctl failed.
    #[error("cannot set up a virtual CPU ({what})")]
    Registers {
        /// The ioctl.
        what: &'static str,
        /// What KVM said.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// KVM stopped at an MSR.
    #[error("KVM set only {set} of {wanted} MSRs (KVM_SET_MSRS)")]
    Msrs {
        /// How many it set.
        set: usize,
        /// How many it should have.
        wanted: usize,
    },
    /// Guest memory is too small for the tables, which the size check excludes.
    #[error("cannot write descriptor and page tables into guest memory")]
    WriteTables(#[source] vm_memory::GuestMemoryError),
    /// The thread could not be started.
    #[error("cannot start the thread of virtual CPU {id}")]
    Thread {
        /// Its number.
        id: u8,
        /// What the host said.
        #[source]
        source: std::io::Error,
    },
}

/// Creates and configures one virtual CPU. `entry` is given for the boot processor; the others wait for its start-up
/// interrupt.
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
