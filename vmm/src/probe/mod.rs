//! Tests whether KVM on this host can really run a guest, by running one of twenty instructions.
//!
//! The existence of `/dev/kvm` says little. On some hosts KVM emulates every instruction of a guest's kernel one by
//! one. That is a thousand times too slow, and it fails at instructions that KVM's emulator lacks (`popcnt`, `int3`,
//! `cmpxchg16b`), which every Linux kernel uses.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::path::{Path, PathBuf};

use kvm_bindings::{KVM_API_VERSION, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress};

use crate::cpu::registers;
use crate::memory::{self, GuestMemory};

mod watchdog;

use watchdog::Watchdog;

/// Address of the guest's program; the tables lie below it.
const CODE: u64 = 0x2_0000;
/// Address of the breakpoint handler.
const HANDLER: u64 = 0x2_1000;
/// Address of the 16 bytes that the program exchanges.
const DATA: u64 = 0x2_2000;
/// Address of the interrupt descriptor table, which has only the breakpoint's entry.
const IDT: u64 = 0x2_3000;
const STACK: u64 = 0x2_5000;

/// Iterations of the timed loop: 0.3 ms on a processor, 2.3 ms under software emulation of one.
const LOOP_COUNT: u32 = 1_000_000;
/// CPU time that the guest may use, in milliseconds: a hundred times as much as on the slowest usable host.
const CPU_LIMIT_MS: u32 = 250;

/// The population count of this is 32.
const PATTERN: u64 = 0xf0f0_f0f0_f0f0_f0f0;

/// Why KVM cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "{path} does not exist: load the KVM module of this processor (modprobe kvm-intel or kvm-amd) and enable \
         virtualization in the firmware; in a virtual machine, nested virtualization must be enabled"
    )]
    Missing { path: PathBuf },
    /// The device file exists, but not the driver. systemd creates the file on every machine.
    #[error(
        "cannot open {path}: {why}; load the KVM module of this processor (modprobe kvm-intel or kvm-amd) and enable \
         virtualization in the firmware; in a virtual machine, nested virtualization must be enabled"
    )]
    NoDriver { path: PathBuf, why: io::Error },
    #[error("cannot open {path}: {why}; {}", advice_on_permission(.why, is_root()))]
    Permission { path: PathBuf, why: io::Error },
    #[error("cannot open {path}")]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} speaks KVM API version {version}, not {KVM_API_VERSION}")]
    ApiVersion {
        path: PathBuf,
        /// The version that it returned; negative if it is not KVM.
        version: i32,
    },
    /// It lacks a capability that every KVM of the last ten years has.
    #[error("this KVM lacks {0}: use a newer kernel")]
    Capability(&'static str),
    #[error("KVM refused to {what}")]
    Refused {
        what: &'static str,
        #[source]
        source: kvm_ioctls::Error,
    },
    #[error("cannot set up the test guest: {0}")]
    SetUp(String),
    /// KVM emulates instead of running the guest, and its emulator lacks an instruction.
    #[error(
        "KVM emulates guest instructions and failed at {instruction} (KVM_EXIT_INTERNAL_ERROR, suberror {suberror}): this \
         machine offers no hardware virtualization"
    )]
    NotEmulated { instruction: &'static str, suberror: u32 },
    /// KVM runs, but too slowly to be of any use.
    #[error(
        "KVM is too slow: a loop of {LOOP_COUNT} iterations took more than {CPU_LIMIT_MS} ms; this machine offers no hardware \
         virtualization"
    )]
    TooSlow,
    /// The guest's result differs from what a processor computes.
    #[error("KVM runs a test guest incorrectly: {0}")]
    Wrong(String),
}

/// The remedy for a missing permission to open the device.
fn advice_on_permission(why: &io::Error, is_root: bool) -> &'static str {
    match (why.raw_os_error(), is_root) {
        // The device cgroup causes EPERM; a missing permission of the file causes EACCES.
        (Some(libc::EPERM), _) => {
            "this container may not use the device: start it with that device (docker and podman: --device /dev/kvm)"
        }
        (_, false) => "run as root, or add this user to the group that owns the device (usually kvm)",
        (_, true) => {
            "this is the root user of a rootless container, or a security module (AppArmor, SELinux) forbids it: run as \
             root of the host, or change the security module's policy"
        }
    }
}

fn is_root() -> bool {
    // SAFETY: geteuid(2) has no arguments and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

/// Runs a tiny 64-bit guest on the KVM device at `path` (`/dev/kvm`). Takes a few milliseconds where KVM is usable.
pub fn check_kvm(path: &Path) -> Result<(), ProbeError> {
    let kvm = open(path)?;
    let memory = memory::map(memory::MIN_MEM_SIZE_MIB).map_err(|error| ProbeError::SetUp(error.to_string()))?;
    let (vm, mut vcpu) = create(&kvm, &memory)?;
    let result = run(&mut vcpu).and_then(|()| check_results(&vcpu, &memory));
    // Explicit, because the virtual machine must not outlive its memory.
    drop((vcpu, vm));
    result
}

fn open(path: &Path) -> Result<Kvm, ProbeError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| not_opened(path, error))?;
    // SAFETY: the descriptor is ours and given away here.
    let kvm = unsafe { Kvm::from_raw_fd(file.into_raw_fd()) };
    let version = kvm.get_api_version();
    if u32::try_from(version) != Ok(KVM_API_VERSION) {
        return Err(ProbeError::ApiVersion {
            path: path.to_owned(),
            version,
        });
    }
    for (capability, name) in [
        (Cap::Irqchip, "interrupt controllers (KVM_CAP_IRQCHIP)"),
        (Cap::Ioeventfd, "ioeventfd (KVM_CAP_IOEVENTFD)"),
        (Cap::Irqfd, "irqfd (KVM_CAP_IRQFD)"),
        (Cap::ImmediateExit, "immediate exit (KVM_CAP_IMMEDIATE_EXIT)"),
    ] {
        if !kvm.check_extension(capability) {
            return Err(ProbeError::Capability(name));
        }
    }
    Ok(kvm)
}

fn not_opened(path: &Path, error: io::Error) -> ProbeError {
    let path = path.to_owned();
    match error.raw_os_error() {
        Some(libc::ENOENT) => ProbeError::Missing { path },
        Some(libc::ENODEV | libc::ENXIO) => ProbeError::NoDriver { path, why: error },
        Some(libc::EACCES | libc::EPERM) => ProbeError::Permission { path, why: error },
        _ => ProbeError::Open { path, source: error },
    }
}

/// A virtual machine that never runs. See [`hold`].
#[derive(Debug)]
pub struct KvmHold {
    _vcpu: VcpuFd,
    _vm: VmFd,
}

/// Keeps KVM in the state that it has while virtual machines exist, until the result is dropped.
///
/// The first and the last virtual machine of a host, and the first virtual CPU whose APIC is off, make its kernel
/// switch processor features and patch its own code (`preempt_notifier_inc`, `static_branch_inc`). QEMU's software
/// emulation of several processors does not always survive that: the emulated host's kernel then dies from a stray
/// `int3` in `__schedule`. An emulated host therefore holds one VM while it is up.
pub fn hold(path: &Path) -> Result<KvmHold, ProbeError> {
    let kvm = open(path)?;
    let refused = |what| move |source| ProbeError::Refused { what, source };
    let vm = kvm
        .create_vm()
        .map_err(refused("create a virtual machine (KVM_CREATE_VM)"))?;
    vm.create_irq_chip()
        .map_err(refused("create interrupt controllers (KVM_CREATE_IRQCHIP)"))?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(refused("create a virtual CPU (KVM_CREATE_VCPU)"))?;
    Ok(KvmHold { _vcpu: vcpu, _vm: vm })
}

/// The guest's program, and the offsets of the instructions at which a bad KVM stops.
fn program() -> (Vec<u8>, Vec<(usize, &'static str)>) {
    let mut code = vec![0x48, 0xb8]; // mov rax, PATTERN
    code.extend_from_slice(&PATTERN.to_le_bytes());
    let mut landmarks = vec![(code.len(), "popcnt")];
    code.extend_from_slice(&[0xf3, 0x48, 0x0f, 0xb8, 0xf0]); // popcnt rsi, rax
    landmarks.push((code.len(), "int3"));
    code.push(0xcc); // int3
    code.extend_from_slice(&[0x31, 0xc0, 0x31, 0xd2]); // xor eax, eax; xor edx, edx
    code.extend_from_slice(&[0xbb, 1, 0, 0, 0, 0xb9, 2, 0, 0, 0]); // mov ebx, 1; mov ecx, 2
    code.push(0xbf); // mov edi, DATA
    code.extend_from_slice(&u32::try_from(DATA).unwrap_or(0).to_le_bytes());
    landmarks.push((code.len(), "cmpxchg16b"));
    code.extend_from_slice(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]); // lock cmpxchg16b [rdi]
    code.push(0xb9); // mov ecx, LOOP_COUNT
    code.extend_from_slice(&LOOP_COUNT.to_le_bytes());
    landmarks.push((code.len(), "a loop"));
    code.extend_from_slice(&[0xff, 0xc9, 0x75, 0xfc]); // dec ecx; jnz -4
    code.push(0xf4); // hlt
    (code, landmarks)
}

/// The breakpoint's handler: mov r8d, 1; iretq.
const HANDLER_CODE: [u8; 8] = [0x41, 0xb8, 1, 0, 0, 0, 0x48, 0xcf];

/// A 64-bit interrupt gate to `HANDLER` through the code segment.
fn breakpoint_gate() -> [u8; 16] {
    let [a, b, c, d, ..] = HANDLER.to_le_bytes();
    [a, b, 0x10, 0, 0, 0x8e, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}

fn create(kvm: &Kvm, memory: &GuestMemory) -> Result<(VmFd, VcpuFd), ProbeError> {
    let set_up = |error: &dyn std::error::Error| ProbeError::SetUp(error.to_string());
    let refused = |what| move |source| ProbeError::Refused { what, source };
    registers::write_tables(memory).map_err(|error| set_up(&error))?;
    let (code, _) = program();
    for (bytes, address) in [
        (code.as_slice(), CODE),
        (&HANDLER_CODE, HANDLER),
        (&[0; 16], DATA),
        (&breakpoint_gate(), IDT + 3 * 16),
    ] {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|error| set_up(&error))?;
    }
    let vm = kvm
        .create_vm()
        .map_err(refused("create a virtual machine (KVM_CREATE_VM)"))?;
    memory::register(&vm, memory).map_err(|error| set_up(&error))?;
    let vcpu = vm
        .create_vcpu(0)
        .map_err(refused("create a virtual CPU (KVM_CREATE_VCPU)"))?;
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(refused("say which CPUID it supports"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(refused("set the CPUID (KVM_SET_CPUID2)"))?;
    registers::set_boot_state(&vcpu, GuestAddress(CODE)).map_err(|error| set_up(&error))?;
    let mut sregs = vcpu.get_sregs().map_err(refused("read registers (KVM_GET_SREGS)"))?;
    (sregs.idt.base, sregs.idt.limit) = (IDT, 4 * 16 - 1);
    vcpu.set_sregs(&sregs)
        .map_err(refused("set registers (KVM_SET_SREGS)"))?;
    let mut regs = vcpu.get_regs().map_err(refused("read registers (KVM_GET_REGS)"))?;
    (regs.rsp, regs.rbp) = (STACK, STACK);
    vcpu.set_regs(&regs).map_err(refused("set registers (KVM_SET_REGS)"))?;
    Ok((vm, vcpu))
}

fn run(vcpu: &mut VcpuFd) -> Result<(), ProbeError> {
    let watchdog =
        Watchdog::start(CPU_LIMIT_MS).map_err(|error| ProbeError::SetUp(format!("cannot start a timer: {error}")))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::Hlt) => return Ok(()),
            Ok(VcpuExit::Intr) => {}
            Ok(VcpuExit::InternalError) => return Err(not_emulated(vcpu)),
            Ok(VcpuExit::Shutdown) => return Err(ProbeError::Wrong("it shut down unexpectedly".into())),
            Ok(exit) => return Err(ProbeError::Wrong(format!("unexpected exit: {exit:?}"))),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(source) => {
                return Err(ProbeError::Refused {
                    what: "run a guest (KVM_RUN)",
                    source,
                });
            }
        }
        if watchdog.limit_reached() {
            return Err(ProbeError::TooSlow);
        }
    }
}

fn not_emulated(vcpu: &mut VcpuFd) -> ProbeError {
    // SAFETY: the exit reason says that `internal` is the valid member of the union.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let offset = vcpu
        .get_regs()
        .ok()
        .and_then(|regs| usize::try_from(regs.rip.checked_sub(CODE)?).ok());
    let (_, landmarks) = program();
    let known = landmarks.iter().find(|(start, _)| Some(*start) == offset);
    ProbeError::NotEmulated {
        instruction: known.map_or("an instruction", |(_, name)| name),
        suberror,
    }
}

/// Whether every instruction did what the processor's manual says.
fn check_results(vcpu: &VcpuFd, memory: &GuestMemory) -> Result<(), ProbeError> {
    let regs = vcpu.get_regs().map_err(|source| ProbeError::Refused {
        what: "read registers (KVM_GET_REGS)",
        source,
    })?;
    let exchanged: [u64; 2] = memory
        .read_obj(GuestAddress(DATA))
        .map_err(|error| ProbeError::SetUp(error.to_string()))?;
    let wrong = |what: String| Err(ProbeError::Wrong(what));
    match (regs.rsi, regs.r8, exchanged, regs.rcx) {
        (32, 1, [1, 2], 0) => Ok(()),
        (32, 1, [1, 2], left) => wrong(format!("a loop stopped with {left} iterations left")),
        (32, 1, exchanged, _) => wrong(format!("cmpxchg16b stored {exchanged:?}")),
        (32, _, _, _) => wrong("int3 did not call its handler".into()),
        (count, ..) => wrong(format!("popcnt counted {count} bits instead of 32")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_and_a_non_kvm_device_are_distinguished() {
        assert!(matches!(
            check_kvm(Path::new("/nonexistent/kvm")),
            Err(ProbeError::Missing { .. })
        ));
        assert!(matches!(
            check_kvm(Path::new("/dev/null")),
            Err(ProbeError::ApiVersion { version: -1, .. })
        ));
    }

    #[test]
    fn an_error_of_open_says_what_failed_and_what_to_do() {
        let of = |errno| not_opened(Path::new("/dev/kvm"), io::Error::from_raw_os_error(errno));
        assert!(matches!(of(libc::ENOENT), ProbeError::Missing { .. }));
        for errno in [libc::ENODEV, libc::ENXIO] {
            assert!(matches!(of(errno), ProbeError::NoDriver { .. }));
        }
        assert!(of(libc::ENODEV).to_string().starts_with(
            "cannot open /dev/kvm: No such device (os error 19); load the KVM module of this processor (modprobe kvm-intel or kvm-amd)"
        ));
        // The device cgroup of a container answers EPERM.
        assert_eq!(
            of(libc::EPERM).to_string(),
            "cannot open /dev/kvm: Operation not permitted (os error 1); this container may not use the device: start it \
             with that device (docker and podman: --device /dev/kvm)"
        );
        let denied = of(libc::EACCES);
        assert!(
            denied
                .to_string()
                .starts_with("cannot open /dev/kvm: Permission denied (os error 13); ")
        );
        let ProbeError::Permission { why, .. } = denied else {
            panic!("{denied:?}")
        };
        assert!(advice_on_permission(&why, false).starts_with("run as root, or add this user to the group"));
        assert!(!advice_on_permission(&why, true).starts_with("run as root, "));
    }

    #[test]
    fn landmarks_point_at_their_instructions() {
        let (code, landmarks) = program();
        let byte = |name| code[landmarks.iter().find(|(_, landmark)| *landmark == name).unwrap().0];
        assert_eq!(
            (byte("popcnt"), byte("int3"), byte("cmpxchg16b"), byte("a loop")),
            (0xf3, 0xcc, 0xf0, 0xff)
        );
    }

    #[test]
    fn the_interrupt_gate_points_to_the_handler() {
        let gate = breakpoint_gate();
        let offset = u64::from(u16::from_le_bytes([gate[0], gate[1]]))
            | (u64::from(u16::from_le_bytes([gate[6], gate[7]])) << 16);
        assert_eq!(offset, HANDLER);
    }
}
