//! The guest's CPUID: what KVM supports, made consistent for each virtual CPU.

use kvm_bindings::{CpuId, kvm_cpuid_entry2};

/// Leaf 1 ECX: VMX. Guests get no nested virtualization.
const VMX: u32 = 1 << 5;
/// Leaf 1 ECX: the TSC-deadline mode of the APIC timer, which needs no calibration at boot.
const TSC_DEADLINE: u32 = 1 << 24;
/// Leaf 1 ECX: running under a hypervisor.
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: the number of logical processors in EBX is valid.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX: HTT means several cores rather than threads.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 0x8000_0001 ECX: SVM, hidden for the same reason as VMX.
const SVM: u32 = 1 << 2;
/// Leaf 0x8000_0001 ECX: AMD's extended performance counters, hidden from the guest.
const PERFCTR: u32 = (1 << 23) | (1 << 24) | (1 << 28);

/// The parts of the VM that CPUID describes.
#[derive(Debug, Clone, Copy)]
pub struct Topology {
    /// Number of virtual CPUs; each is one core of a single package.
    pub vcpu_count: u8,
}

/// Number of APIC id bits that `vcpu_count` processors need.
fn apic_id_bits(vcpu_count: u8) -> u32 {
    u32::from(vcpu_count).next_power_of_two().trailing_zeros()
}

/// KVM's asynchronous page faults (`KVM_FEATURE_ASYNC_PF`, `_VMEXIT` and `_INT`, kernel:
/// Documentation/virt/kvm/x86/cpuid.rst). They are hidden from the guest. They let it do something else while the host
/// reads swapped-out memory back, but a host of many Pods should not swap; a snapshot would have to carry their state;
/// and QEMU's software emulation of SVM loses the guest's registers when one is injected.
const ASYNC_PAGE_FAULTS: u32 = 1 << 4 | 1 << 10 | 1 << 14;

fn adjust_entry(entry: &mut kvm_cpuid_entry2, apic_id: u8, topology: Topology) {
    let count = u32::from(topology.vcpu_count);
    let id = u32::from(apic_id);
    match (entry.function, entry.index) {
        (1, _) => {
            entry.ebx = (entry.ebx & 0xff00) | (count << 16) | (id << 24) | (entry.ebx & 0xff);
            // KVM_GET_SUPPORTED_CPUID omits the deadline timer, because it depends on the local
            // APIC being in the kernel.
            entry.ecx = (entry.ecx & !VMX) | TSC_DEADLINE | HYPERVISOR;
            entry.edx = if count > 1 { entry.edx | HTT } else { entry.edx & !HTT };
        }
        // Intel: caches. Levels 1 and 2 belong to a core, level 3 to the package.
        (4, _) if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14) | ((count - 1).min(63) << 26);
        }
        // No performance counters.
        (0xa | 0x8000_0022, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // Extended topology: level 0 is the thread (one per core), level 1 the core.
        (0xb | 0x1f, index) => {
            let (shift, logical, kind) = match index {
                0 => (0, 1, 1),
                1 => (apic_id_bits(topology.vcpu_count), count, 2),
                _ => (0, 0, 0),
            };
            (entry.eax, entry.ebx, entry.ecx, entry.edx) = (shift, logical, (kind << 8) | index, id);
        }
        (0x8000_0001, _) => {
            entry.ecx &= !(SVM | PERFCTR | CMP_LEGACY);
            if count > 1 {
                entry.ecx |= CMP_LEGACY;
            }
        }
        (0x4000_0001, _) => entry.eax &= !ASYNC_PAGE_FAULTS,
        // AMD: number of cores and the width of the APIC id.
        (0x8000_0008, _) => {
            entry.ecx = (entry.ecx & !0xf0ff) | (count - 1) | (apic_id_bits(topology.vcpu_count) << 12);
        }
        // AMD: SVM's own leaf.
        (0x8000_000a, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        // AMD: caches.
        (0x8000_001d, _) if entry.eax & 0x1f != 0 => {
            let level = (entry.eax >> 5) & 7;
            let sharing = if level >= 3 { count - 1 } else { 0 };
            entry.eax = (entry.eax & 0x3fff) | (sharing << 14);
        }
        // AMD: extended APIC id, one thread per core, one node.
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (id, id, 0),
        _ => {}
    }
}

/// The CPUID of the virtual CPU `apic_id`.
#[must_use]
pub fn for_vcpu(supported: &CpuId, apic_id: u8, topology: Topology) -> CpuId {
    let mut cpuid = supported.clone();
    for entry in cpuid.as_mut_slice() {
        adjust_entry(entry, apic_id, topology);
    }
    cpuid
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(function: u32, index: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            index,
            ebx: 0xaa00_0812,
            ecx: u32::MAX,
            ..Default::default()
        }
    }

    fn adjusted(function: u32, index: u32, id: u8, count: u8) -> kvm_cpuid_entry2 {
        let supported = CpuId::from_entries(&[leaf(function, index)]).unwrap();
        for_vcpu(&supported, id, Topology { vcpu_count: count }).as_slice()[0]
    }

    #[test]
    fn leaf_1_names_the_vcpu_and_hides_virtualization() {
        let entry = adjusted(1, 0, 3, 4);
        assert_eq!(entry.ebx, 0x0304_0812);
        assert_eq!(entry.ecx & (VMX | TSC_DEADLINE | HYPERVISOR), TSC_DEADLINE | HYPERVISOR);
        assert_eq!(entry.edx & HTT, HTT);
    }

    #[test]
    fn extended_topology_has_a_level_of_cores() {
        let core = adjusted(0xb, 1, 2, 3);
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
        let thread = adjusted(0xb, 0, 2, 3);
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 2));
    }

    #[test]
    fn asynchronous_page_faults_are_hidden() {
        let mut entry = kvm_cpuid_entry2 {
            function: 0x4000_0001,
            eax: u32::MAX,
            ..Default::default()
        };
        let topology = Topology { vcpu_count: 1 };
        adjust_entry(&mut entry, 0, topology);
        assert_eq!(entry.eax, !ASYNC_PAGE_FAULTS);
    }

    #[test]
    fn svm_and_performance_counters_are_hidden() {
        assert_eq!(adjusted(0x8000_0001, 0, 0, 1).ecx & (SVM | PERFCTR | CMP_LEGACY), 0);
        assert_eq!(adjusted(0xa, 0, 0, 1).eax, 0);
    }
}
