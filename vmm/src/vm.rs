//! One virtual machine: assembles memory, devices and processors, runs them, and tears them down.

use std::fs::File;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kvm_bindings::{CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, kvm_enable_cap};
use kvm_ioctls::{Cap, IoEventAddress, Kvm, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::boot::{self, BootError, BootSource, layout};
use crate::bus::{Bus, Overlap};
use crate::config::MAX_VCPU_COUNT;
use crate::cpu::vcpu::{GuestEnd, Machine, Stop, VcpuThread, install_kick_handler, stop_all};
use crate::cpu::{self, CpuError, cpuid::Topology, registers};
use crate::devices::blk::{device::BlkIdentity, disk::Disk, growth, worker::BlkBackend};
use crate::devices::fs::{device::FsIdentity, worker::FsBackend};
use crate::devices::ioapic::device::{IOAPIC_SIZE, IoApic, KvmDelivery};
use crate::devices::net::{device::NetIdentity, tap::Tap, worker::NetBackend};
use crate::devices::rng::{device::RngIdentity, worker::RngBackend};
use crate::devices::serial::console::Console;
use crate::devices::serial::device::{
    I8042_PORT, I8042_PORT_COUNT, ResetDevice, ResetRequest, SERIAL_PORT, SERIAL_PORT_COUNT, SerialDevice,
};
use crate::devices::virtio::interrupt::Interrupt;
use crate::devices::virtio::mmio::{Identity, MmioTransport, QUEUE_NOTIFY};
use crate::devices::virtio::worker::{Backend, Worker};
use crate::devices::vsock::{device::VsockIdentity, worker::VsockBackend};
use crate::jail::JailError;
use crate::jail::seccomp::{Role, ThreadFilter};
use crate::lock::{lock, unpoisoned};
use crate::memory::{self, GuestMemory, MemoryError};

/// How long the console's reader may take for the remaining output after the guest has stopped.
const CONSOLE_DRAIN: Duration = Duration::from_secs(2);

/// Everything that a virtual machine consists of, opened and ready.
#[derive(Debug)]
pub struct VmParts {
    /// `/dev/kvm`.
    pub kvm: Kvm,
    /// Guest RAM in MiB.
    pub mem_size_mib: u32,
    /// Number of virtual CPUs.
    pub vcpu_count: u8,
    /// ELF vmlinux.
    pub kernel: File,
    pub initramfs: Option<File>,
    /// Kernel command line without the devices.
    pub cmdline: String,
    /// In guest order.
    pub disks: Vec<Disk>,
    /// TAP and the guest's MAC address.
    pub net: Option<(Tap, [u8; 6])>,
    /// Context id of the guest, and the device that serves it.
    pub vsock: Option<(u32, VsockBackend)>,
    /// The device for directories of the host.
    pub fs: Option<FsBackend>,
    /// Where the serial console's output goes.
    pub console: File,
    /// Whether the threads may make only the system calls they need. If so, the process must
    /// already have no_new_privs set.
    pub confined: bool,
}

/// Why a virtual machine could not be created, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum VmError {
    #[error("invalid number of virtual CPUs {0}: it must be 1 to {MAX_VCPU_COUNT}")]
    VcpuCount(u8),
    #[error("cannot set up guest memory")]
    Memory(#[from] MemoryError),
    #[error("cannot load the guest")]
    Boot(#[from] BootError),
    #[error("cannot set up the virtual CPUs")]
    Cpu(#[from] CpuError),
    #[error("KVM refused to {what}")]
    Kvm {
        what: &'static str,
        #[source]
        source: kvm_ioctls::Error,
    },
    /// An older kernel, or a KVM without a local APIC.
    #[error("this host's KVM lacks {0}: it needs Linux 4.4 or newer")]
    Capability(&'static str),
    #[error("cannot start device {name}")]
    Device {
        name: String,
        #[source]
        source: io::Error,
    },
    /// An invalid queue size, which is a bug.
    #[error("device {name} has an invalid queue")]
    Queue {
        name: String,
        #[source]
        source: virtio_queue::Error,
    },
    #[error("too many devices: the maximum is {max} virtio devices", max = MAX_VIRTIO_DEVICES)]
    TooManyDevices,
    /// Two devices at one address, which is a bug.
    #[error("cannot place a device")]
    Bus(#[from] Overlap),
    #[error("cannot install the signal handler that stops virtual CPUs")]
    Signal(#[source] io::Error),
    #[error("cannot confine the virtual machine")]
    Jail(#[from] JailError),
    /// The guest did not end on its own.
    #[error("the virtual machine failed: {0}")]
    Failed(String),
}

/// Number of interrupt lines for virtio devices.
pub const MAX_VIRTIO_DEVICES: u32 = layout::IRQ_COUNT as u32 - layout::VIRTIO_IRQ_FIRST;

/// The gate at which vCPU threads wait until the process is ready for the guest.
#[derive(Debug, Default)]
struct Gate {
    /// Whether they may run the guest, once that is decided.
    decision: Mutex<Option<bool>>,
    decided: Condvar,
}

impl Gate {
    fn decide(&self, run: bool) {
        *lock(&self.decision) = Some(run);
        self.decided.notify_all();
    }

    fn wait(&self) -> bool {
        let mut decision = lock(&self.decision);
        loop {
            match *decision {
                Some(run) => return run,
                None => decision = unpoisoned(self.decided.wait(decision)),
            }
        }
    }
}

/// The state that vCPU threads share.
#[derive(Debug)]
struct Shared {
    pio: Bus,
    mmio: Bus,
    reset: ResetRequest,
    stops: Sender<Stop>,
    vcpu_filter: ThreadFilter,
    gate: Gate,
}

impl Machine for Shared {
    fn pio(&self) -> &Bus {
        &self.pio
    }
    fn mmio(&self) -> &Bus {
        &self.mmio
    }
    fn reset_requested(&self) -> bool {
        self.reset.is_set()
    }
    fn stopped(&self, _id: u8, stop: Stop) {
        // The receiver is gone only while the VM is being torn down.
        let _ = self.stops.send(stop);
    }
    fn enter(&self) -> bool {
        self.vcpu_filter.install_or_abort();
        self.gate.wait()
    }
}

/// A virtual machine that is ready to run.
#[derive(Debug)]
pub struct Vm {
    vcpus: Vec<VcpuFd>,
    shared: Arc<Shared>,
    main_filter: ThreadFilter,
    stops: Receiver<Stop>,
    transports: Vec<Arc<Mutex<MmioTransport>>>,
    console: Console,
    vm: Arc<VmFd>,
    // Keep it to the end, because KVM and the devices refer to it.
    _memory: GuestMemory,
}

/// Adds devices to a VM under construction.
struct Builder {
    vm: Arc<VmFd>,
    memory: GuestMemory,
    mmio: Bus,
    transports: Vec<Arc<Mutex<MmioTransport>>>,
    confined: bool,
    /// `virtio_mmio.device=` parameters.
    cmdline_devices: String,
}

fn eventfd(name: &str) -> Result<EventFd, VmError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(|source| VmError::Device {
        name: name.to_owned(),
        source,
    })
}

fn kvm_error(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> VmError {
    move |source| VmError::Kvm { what, source }
}

impl Builder {
    /// Adds a virtio device at the next free place.
    fn add_virtio(
        &mut self,
        name: &str,
        role: Role,
        identity: impl Identity + 'static,
        backend: impl Backend,
    ) -> Result<(), VmError> {
        let device_error = |source| VmError::Device {
            name: name.to_owned(),
            source,
        };
        let index = u32::try_from(self.transports.len()).map_err(|_| VmError::TooManyDevices)?;
        if index >= MAX_VIRTIO_DEVICES {
            return Err(VmError::TooManyDevices);
        }
        let irq = layout::VIRTIO_IRQ_FIRST + index;
        let address = layout::VIRTIO_MMIO + u64::from(index) * layout::VIRTIO_MMIO_SIZE;

        let mut notifiers = Vec::new();
        let mut for_worker = Vec::new();
        for number in 0..identity.queue_sizes().len() {
            let notifier = eventfd(name)?;
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            self.vm
                .register_ioevent(&notifier, &IoEventAddress::Mmio(address + QUEUE_NOTIFY), number)
                .map_err(kvm_error("attach a queue's eventfd (KVM_IOEVENTFD)"))?;
            for_worker.push(notifier.try_clone().map_err(device_error)?);
            notifiers.push(notifier);
        }
        let interrupt = Arc::new(Interrupt::new(eventfd(name)?));
        self.vm
            .register_irqfd(interrupt.line(), irq)
            .map_err(kvm_error("attach a device's interrupt (KVM_IRQFD)"))?;
        let filter = ThreadFilter::new(role, self.confined)?;
        let worker =
            Worker::start(name, backend, for_worker, move || filter.install_or_abort()).map_err(device_error)?;
        let transport = MmioTransport::new(Box::new(identity), self.memory.clone(), interrupt, notifiers, worker)
            .map_err(|source| VmError::Queue {
                name: name.to_owned(),
                source,
            })?;
        let transport = Arc::new(Mutex::new(transport));
        self.mmio
            .insert(address, layout::VIRTIO_MMIO_SIZE, Arc::clone(&transport) as _)?;
        self.transports.push(transport);
        self.cmdline_devices
            .push_str(&format!(" virtio_mmio.device=4K@{address:#x}:{irq}"));
        Ok(())
    }
}

impl Builder {
    /// The interrupt lines that have a device.
    fn interrupt_lines(&self) -> Vec<u8> {
        let virtio = (layout::VIRTIO_IRQ_FIRST..).take(self.transports.len());
        let lines = std::iter::once(layout::SERIAL_IRQ).chain(virtio);
        lines.filter_map(|line| u8::try_from(line).ok()).collect()
    }

    /// Adds the interrupt controller, with as many lines as are in use.
    fn add_ioapic(&mut self, interrupt_lines: &[u8]) -> Result<(), VmError> {
        let count = interrupt_lines.iter().max().map_or(1, |last| last.saturating_add(1));
        let ioapic = IoApic::new(count, KvmDelivery(Arc::clone(&self.vm)));
        self.mmio
            .insert(u64::from(layout::IOAPIC), IOAPIC_SIZE, Arc::new(Mutex::new(ioapic)))?;
        Ok(())
    }
}

/// Inserts kernel parameters before ` -- `; everything after that is for init.
fn with_parameters(cmdline: &str, parameters: &str) -> String {
    match cmdline.split_once(" -- ") {
        Some((kernel, init)) => format!("{kernel}{parameters} -- {init}"),
        None => format!("{cmdline}{parameters}").trim_start().to_owned(),
    }
}

/// Creates an empty VM. Its local APICs are in KVM, the rest of the interrupt path is in this process.
fn create_vm(kvm: &Kvm) -> Result<Arc<VmFd>, VmError> {
    // The deadline mode of the APIC timer needs no calibration, for which a kernel would look for the PIT.
    for (capability, name) in [
        (
            Cap::SplitIrqchip,
            "a split interrupt controller (KVM_CAP_SPLIT_IRQCHIP)",
        ),
        (
            Cap::TscDeadlineTimer,
            "the TSC-deadline timer (KVM_CAP_TSC_DEADLINE_TIMER)",
        ),
    ] {
        if !kvm.check_extension(capability) {
            return Err(VmError::Capability(name));
        }
    }
    let vm = kvm
        .create_vm()
        .map_err(kvm_error("create a virtual machine (KVM_CREATE_VM)"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(kvm_error("place its identity map"))?;
    vm.set_tss_address(layout::KVM_TSS)
        .map_err(kvm_error("place its TSS"))?;
    let mut split = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    split.args[0] = u64::from(layout::IRQ_COUNT);
    vm.enable_cap(&split)
        .map_err(kvm_error("create local APICs (KVM_CAP_SPLIT_IRQCHIP)"))?;
    Ok(Arc::new(vm))
}

fn create_vcpus(
    vm: &VmFd,
    count: u8,
    cpuid: &CpuId,
    topology: Topology,
    entry: vm_memory::GuestAddress,
) -> Result<Vec<VcpuFd>, CpuError> {
    (0..count)
        .map(|id| cpu::create(vm, id, cpuid, topology, (id == 0).then_some(entry)))
        .collect()
}

impl Vm {
    /// Builds the VM. Afterwards the threads of its devices run, but its processors do not yet.
    pub fn new(mut parts: VmParts) -> Result<Self, VmError> {
        if !(1..=MAX_VCPU_COUNT).contains(&parts.vcpu_count) {
            return Err(VmError::VcpuCount(parts.vcpu_count));
        }
        let vm = create_vm(&parts.kvm)?;
        let memory = memory::map(parts.mem_size_mib)?;
        memory::register(&vm, &memory)?;

        let console_filter = ThreadFilter::new(Role::Console, parts.confined)?;
        let console = Console::start(parts.console, move || console_filter.install_or_abort()).map_err(|source| {
            VmError::Device {
                name: "console".into(),
                source,
            }
        })?;
        let (pio, reset) = legacy_devices(&vm, &console)?;

        let mut builder = Builder {
            vm,
            memory,
            mmio: Bus::default(),
            transports: Vec::new(),
            cmdline_devices: String::new(),
            confined: parts.confined,
        };
        let growing = parts.disks.iter().rposition(Disk::read_only);
        let mut growth = None;
        for (index, disk) in parts.disks.into_iter().enumerate() {
            let name = format!("blk{index}");
            let identity = BlkIdentity::new(&disk);
            let mut backend = BlkBackend::new(disk, index);
            if growing == Some(index) {
                let (sender, segments) = growth::pair().map_err(|source| VmError::Device {
                    name: name.clone(),
                    source,
                })?;
                growth = Some(sender);
                backend = backend.growing(segments);
            }
            builder.add_virtio(&name, Role::Blk, identity, backend)?;
        }
        if let Some((tap, mac)) = parts.net {
            builder.add_virtio("net", Role::Net, NetIdentity::new(mac), NetBackend::new(tap))?;
        }
        if let Some((guest_cid, backend)) = parts.vsock {
            builder.add_virtio(
                "vsock",
                Role::Vsock,
                VsockIdentity::new(guest_cid),
                backend.growing(growth),
            )?;
        }
        let (stop_sender, stops) = channel();
        if let Some(backend) = parts.fs {
            // A Pod without its files could only fail.
            let stop = stop_sender.clone();
            let backend = backend.on_loss(move |reason| {
                // The receiver is gone only while the VM is being torn down.
                let _ = stop.send(Stop::Failed(reason));
            });
            builder.add_virtio("fs", Role::Fs, FsIdentity, backend)?;
        }
        builder.add_virtio("rng", Role::Rng, RngIdentity, RngBackend)?;

        let cmdline = with_parameters(&parts.cmdline, &builder.cmdline_devices);
        let source = BootSource {
            kernel: &mut parts.kernel,
            initramfs: parts.initramfs.as_mut(),
            cmdline: &cmdline,
        };
        let interrupt_lines = builder.interrupt_lines();
        let entry = boot::load(&builder.memory, source, parts.vcpu_count, &interrupt_lines)?;
        builder.add_ioapic(&interrupt_lines)?;
        registers::write_tables(&builder.memory)?;

        let cpuid = parts
            .kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(kvm_error("say which CPUID it supports"))?;
        let topology = Topology {
            vcpu_count: parts.vcpu_count,
        };
        let vcpus = create_vcpus(&builder.vm, parts.vcpu_count, &cpuid, topology, entry)?;
        let shared = Arc::new(Shared {
            pio,
            mmio: builder.mmio,
            reset,
            stops: stop_sender,
            vcpu_filter: ThreadFilter::new(Role::Vcpu, parts.confined)?,
            gate: Gate::default(),
        });
        Ok(Self {
            vcpus,
            shared,
            main_filter: ThreadFilter::new(Role::Main, parts.confined)?,
            stops,
            transports: builder.transports,
            console,
            vm: builder.vm,
            _memory: builder.memory,
        })
    }

    /// Runs the guest until it stops or fails, then tears the VM down. By then, everything reported to the guest as
    /// written has been written, and its output has been handed over.
    pub fn run(self) -> Result<GuestEnd, VmError> {
        install_kick_handler().map_err(VmError::Signal)?;
        let mut threads = Vec::with_capacity(self.vcpus.len());
        let mut failure: Option<VmError> = None;
        for (id, vcpu) in (0u8..).zip(self.vcpus) {
            match VcpuThread::start(id, vcpu, Arc::clone(&self.shared)) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    failure = Some(VmError::Cpu(error));
                    break;
                }
            }
        }
        if failure.is_none() {
            failure = self.main_filter.install().err().map(VmError::Jail);
        }
        self.shared.gate.decide(failure.is_none());
        let stop = if failure.is_none() {
            self.stops.recv()
        } else {
            Ok(Stop::Kicked)
        };
        stop_all(threads);
        for transport in &self.transports {
            lock(transport).request_stop();
        }
        // The kernel is slow to tear down a VM and a TAP, and mostly waits. So both happen at the same time, the TAP in
        // its device's thread. No device needs KVM any more.
        drop((self.shared, self.vm));
        for transport in &self.transports {
            lock(transport).join();
        }
        self.console.finish(CONSOLE_DRAIN);
        match (failure, stop) {
            (Some(error), _) => Err(error),
            (None, Ok(Stop::Failed(reason))) => Err(VmError::Failed(reason)),
            (None, Ok(Stop::Guest(end))) => Ok(end),
            // A running VM is never kicked, and every thread gives its reason before it ends.
            (None, Ok(Stop::Kicked) | Err(_)) => Err(VmError::Failed("the virtual CPUs stopped for no reason".into())),
        }
    }
}

/// The serial port and the reset line.
fn legacy_devices(vm: &VmFd, console: &Console) -> Result<(Bus, ResetRequest), VmError> {
    let interrupt = eventfd("serial")?;
    vm.register_irqfd(&interrupt, layout::SERIAL_IRQ)
        .map_err(kvm_error("attach the serial port's interrupt"))?;
    let reset = ResetRequest::default();
    let mut pio = Bus::default();
    let serial = SerialDevice::new(interrupt, console.writer());
    pio.insert(SERIAL_PORT, SERIAL_PORT_COUNT, Arc::new(Mutex::new(serial)))?;
    pio.insert(
        I8042_PORT,
        I8042_PORT_COUNT,
        Arc::new(Mutex::new(ResetDevice::new(reset.clone()))),
    )?;
    Ok((pio, reset))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_parameters_precede_the_arguments_of_init() {
        assert_eq!(with_parameters("quiet", " a=1"), "quiet a=1");
        assert_eq!(with_parameters("", " a=1"), "a=1");
        assert_eq!(
            with_parameters("quiet -- --init-option", " a=1"),
            "quiet a=1 -- --init-option"
        );
    }
}
