//! The I/O APIC (Intel 82093AA). It lives here and not in KVM: a machine needs a handful of interrupt lines where KVM's has 24 that
//! every boot goes through several times; an interrupt that KVM knows as a message is delivered at once where one of its own I/O
//! APIC's waits for a kernel thread; and neither it nor the PC's older controller and timer are then in the host's kernel.

pub mod device;
pub mod redirection;
