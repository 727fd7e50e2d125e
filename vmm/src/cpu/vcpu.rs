//! The thread of a virtual CPU: runs the guest and handles its accesses to devices.

use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use std::thread::JoinHandle;

use kvm_bindings::{KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN, kvm_run};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::error::CpuError;
use crate::bus::Bus;

/// Stack size of a vCPU thread, which only dispatches.
const STACK_BYTES: usize = 128 << 10;

/// Why a virtual CPU stopped running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The guest ended its VM.
    Guest(GuestEnd),
    /// Another thread stopped it.
    Kicked,
    /// KVM cannot continue, for this reason.
    Failed(String),
}

/// How a guest ended its VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestEnd {
    /// It requested a reset or power-off.
    Reset,
    /// A triple fault, which resets a PC. Some kernels cause one on purpose to reset.
    TripleFault,
}

/// The context of a vCPU thread.
pub trait Machine: Send + Sync + 'static {
    /// Port I/O devices.
    fn pio(&self) -> &Bus;
    /// Memory-mapped devices.
    fn mmio(&self) -> &Bus;
    /// Whether the guest asked a device to reset the VM.
    fn reset_requested(&self) -> bool;
    /// Called once by each thread when it ends.
    fn stopped(&self, id: u8, stop: Stop);
    /// Called by each thread before it runs the guest; `false` if it must not run at all.
    fn enter(&self) -> bool;
}

/// The signal that makes a thread leave `KVM_RUN`.
pub(crate) fn kick_signal() -> libc::c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

extern "C" fn ignore_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Installs the handler that makes the kick signal interrupt `KVM_RUN` instead of ending the process.
pub fn install_kick_handler() -> Result<(), std::io::Error> {
    vmm_sys_util::signal::register_signal_handler(kick_signal(), ignore_kick)
        .map_err(|error| std::io::Error::from_raw_os_error(error.errno()))
}

/// A running vCPU thread.
#[derive(Debug)]
pub struct VcpuThread {
    /// The vCPU's `kvm_run`. It is mapped while the vCPU lives, and the thread returns the vCPU only when it is joined.
    run: AtomicPtr<kvm_run>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<VcpuFd>,
}

impl VcpuThread {
    /// Starts the thread of virtual CPU `id`. A panic in it must end the process; the commands ensure this.
    pub fn start<M: Machine>(id: u8, mut vcpu: VcpuFd, machine: Arc<M>) -> Result<Self, CpuError> {
        let run = AtomicPtr::new(std::ptr::from_mut(vcpu.get_kvm_run()));
        let stop = Arc::new(AtomicBool::new(false));
        let stop_requested = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{id}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let stop = if machine.enter() {
                    run_guest(id, &mut vcpu, &*machine, &stop_requested)
                } else {
                    Stop::Kicked
                };
                machine.stopped(id, stop);
                vcpu
            })
            .map_err(|source| CpuError::Thread { id, source })?;
        Ok(Self { run, stop, thread })
    }
}

/// A thread that ends on request.
trait Ending {
    /// Requests the end without waiting.
    fn request_stop(&self);
    /// Waits until it has ended.
    fn join(self);
}

impl Ending for VcpuThread {
    /// Makes the vCPU leave the guest.
    fn request_stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        let run = self.run.load(Ordering::SeqCst);
        // SAFETY: the mapping lives as long as the vCPU, and only `join` below returns the vCPU to be dropped. The
        // kernel reads the byte concurrently, hence the atomic.
        unsafe { AtomicU8::from_ptr(&raw mut (*run).immediate_exit) }.store(1, Ordering::SeqCst);
        // SAFETY: the thread has not been joined, so its id is valid; the signal has a handler.
        unsafe { libc::pthread_kill(self.thread.as_pthread_t() as libc::pthread_t, kick_signal()) };
    }

    fn join(self) {
        let _ = self.thread.join();
    }
}

/// Stops the threads of all virtual CPUs.
pub fn stop_all(threads: Vec<VcpuThread>) {
    end_all(threads);
}

/// Asks all threads before waiting for any: a thread may wait for a device to reset, which another thread keeps busy
/// until it stops.
fn end_all<T: Ending>(threads: Vec<T>) {
    threads.iter().for_each(T::request_stop);
    threads.into_iter().for_each(T::join);
}

/// Runs the guest until the guest, KVM or another thread stops it.
fn run_guest(id: u8, vcpu: &mut VcpuFd, machine: &impl Machine, stop_requested: &AtomicBool) -> Stop {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(port, data)) => {
                machine.pio().write(u64::from(port), data);
                if machine.reset_requested() {
                    return Stop::Guest(GuestEnd::Reset);
                }
            }
            Ok(VcpuExit::IoIn(port, data)) => machine.pio().read(u64::from(port), data),
            Ok(VcpuExit::MmioRead(address, data)) => machine.mmio().read(address, data),
            Ok(VcpuExit::MmioWrite(address, data)) => machine.mmio().write(address, data),
            // With the local APIC in the kernel, HLT does not exit to here. A guest that halts for good has to be
            // stopped from outside.
            Ok(VcpuExit::Hlt | VcpuExit::Intr | VcpuExit::IrqWindowOpen) => {}
            Ok(VcpuExit::Shutdown) => return Stop::Guest(GuestEnd::TripleFault),
            Ok(VcpuExit::SystemEvent(KVM_SYSTEM_EVENT_SHUTDOWN | KVM_SYSTEM_EVENT_RESET, _)) => {
                return Stop::Guest(GuestEnd::Reset);
            }
            Ok(VcpuExit::SystemEvent(kind, _)) => {
                return Stop::Failed(format!(
                    "virtual CPU {id}: the guest raised system event {kind} (crash)"
                ));
            }
            Ok(VcpuExit::FailEntry(reason, cpu)) => {
                return Stop::Failed(format!(
                    "virtual CPU {id}: the processor failed to enter the guest on host CPU {cpu}, reason {reason:#x}"
                ));
            }
            Ok(VcpuExit::InternalError) => return Stop::Failed(describe_internal_error(id, vcpu)),
            Ok(exit) => {
                return Stop::Failed(format!("virtual CPU {id}: unexpected KVM exit: {exit:?}"));
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
            Err(error) => return Stop::Failed(format!("virtual CPU {id}: KVM_RUN failed: {error}")),
        }
        if stop_requested.load(Ordering::Relaxed) {
            return Stop::Kicked;
        }
    }
}

/// Describes a `KVM_EXIT_INTERNAL_ERROR` and where in the guest it happened.
fn describe_internal_error(id: u8, vcpu: &mut VcpuFd) -> String {
    // SAFETY: the exit reason says that `internal` is the valid member of the union.
    let suberror = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal.suberror };
    let place = vcpu
        .get_regs()
        .map_or_else(|_| "an unknown address".to_owned(), |regs| format!("{:#x}", regs.rip));
    let meaning = match suberror {
        1 => "it cannot emulate an instruction of the guest; run `microkube doctor` to check this host's KVM",
        2 => "simultaneous exceptions",
        3 => "an exit while delivering an event",
        4 => "an unexpected exit reason",
        _ => "unknown",
    };
    format!("virtual CPU {id}: KVM internal error {suberror} at {place}: {meaning}")
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    struct Recorded<'r>(u8, &'r RefCell<Vec<(&'static str, u8)>>);

    impl Ending for Recorded<'_> {
        fn request_stop(&self) {
            self.1.borrow_mut().push(("asked", self.0));
        }
        fn join(self) {
            self.1.borrow_mut().push(("joined", self.0));
        }
    }

    #[test]
    fn all_vcpus_are_asked_to_stop_before_any_is_joined() {
        let events = RefCell::new(Vec::new());
        end_all((0..3).map(|id| Recorded(id, &events)).collect());
        let expected = ["asked", "joined"].map(|what| (0..3).map(move |id| (what, id)));
        assert_eq!(events.into_inner(), expected.into_iter().flatten().collect::<Vec<_>>());
    }

    /// A virtual CPU that resets a device while the other one keeps that device busy until it is stopped.
    struct Thread {
        stop: Arc<AtomicBool>,
        thread: JoinHandle<()>,
    }

    impl Ending for Thread {
        fn request_stop(&self) {
            self.stop.store(true, Ordering::SeqCst);
        }
        fn join(self) {
            self.thread.join().unwrap();
        }
    }

    #[test]
    fn a_vcpu_waiting_for_another_vcpus_busy_device_is_stopped() {
        let is_busy = Arc::new(AtomicBool::new(true));
        let stops = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
        let [resetting, busy] = stops.clone();
        let resetting = {
            let (stop, is_busy) = (resetting, Arc::clone(&is_busy));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) || is_busy.load(Ordering::SeqCst) {
                    std::thread::yield_now();
                }
            })
        };
        let busy = std::thread::spawn(move || {
            while !busy.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            is_busy.store(false, Ordering::SeqCst);
        });
        let threads = stops.into_iter().zip([resetting, busy]);
        let threads = threads.map(|(stop, thread)| Thread { stop, thread }).collect();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            end_all::<Thread>(threads);
            done.send(()).unwrap();
        });
        ended.recv_timeout(std::time::Duration::from_secs(60)).unwrap();
    }
}
