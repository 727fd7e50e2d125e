//! Why a virtual CPU could not be set up.

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
