//! Errors from setting up virtual CPUs.

#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error("cannot create virtual CPU {id} (KVM_CREATE_VCPU)")]
    Create {
        id: u8,
        #[source]
        source: kvm_ioctls::Error,
    },
    #[error("KVM refused the CPUID of virtual CPU {id} (KVM_SET_CPUID2)")]
    Cpuid {
        id: u8,
        #[source]
        source: kvm_ioctls::Error,
    },
    #[error("cannot set up a virtual CPU ({what})")]
    Registers {
        /// The ioctl.
        what: &'static str,
        #[source]
        source: kvm_ioctls::Error,
    },
    #[error("KVM set only {set} of {wanted} MSRs (KVM_SET_MSRS)")]
    Msrs { set: usize, wanted: usize },
    /// Guest memory is too small for the tables; the minimum memory size rules this out.
    #[error("cannot write descriptor and page tables into guest memory")]
    WriteTables(#[source] vm_memory::GuestMemoryError),
    #[error("cannot start the thread of virtual CPU {id}")]
    Thread {
        id: u8,
        #[source]
        source: std::io::Error,
    },
}
