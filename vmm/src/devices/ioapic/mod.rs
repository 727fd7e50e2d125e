//! The I/O APIC (Intel 82093AA), emulated here and not in KVM for three reasons. A VM needs only a handful of interrupt
//! lines; KVM's has 24, and every boot goes through all of them several times. KVM delivers an interrupt immediately if
//! it is routed as a message; one from its own I/O APIC waits for a kernel thread. And the host's kernel then runs
//! neither an I/O APIC nor the PC's older interrupt controller and timer.

pub mod device;
pub mod redirection;
