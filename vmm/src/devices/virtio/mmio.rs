//! The registers of a virtio device: virtio over MMIO, version 2 (section 4.2).

use std::sync::Arc;

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE as STATUS_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER as STATUS_DRIVER,
    VIRTIO_CONFIG_S_DRIVER_OK as STATUS_DRIVER_OK, VIRTIO_CONFIG_S_FAILED as STATUS_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK as STATUS_FEATURES_OK,
};
use virtio_bindings::virtio_mmio as register;
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::interrupt::{Interrupt, STATUS_NEEDS_RESET};
use super::queue::VirtQueue;
use super::worker::{Active, Worker};
use super::{F_EVENT_IDX, F_VERSION_1};
use crate::bus::BusDevice;
use crate::memory::GuestMemory;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "MKUB"; drivers ignore it.
const VENDOR: u32 = 0x4255_4b4d;

/// Offset of QueueNotify, where the queues' eventfds are attached.
pub const QUEUE_NOTIFY: u64 = register::VIRTIO_MMIO_QUEUE_NOTIFY as u64;
/// Offset of the device's configuration space.
const CONFIG_SPACE: u64 = register::VIRTIO_MMIO_CONFIG as u64;

/// The static properties of a device.
pub trait Identity: Send {
    /// Device type (section 5).
    fn device_type(&self) -> u32;
    /// Offered features.
    fn features(&self) -> u64;
    /// Queue sizes, each a power of two.
    fn queue_sizes(&self) -> &[u16];
    /// The content of the configuration space.
    fn config(&self) -> &[u8];
    /// Reads the configuration space; bytes beyond its end stay as they are.
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        copy_config(self.config(), offset, data);
    }
    /// Changes whenever the configuration does (section 2.5.1).
    fn config_generation(&self) -> u32 {
        0
    }
}

/// Copies the part of a configuration space from `offset` on.
pub fn copy_config(config: &[u8], offset: usize, data: &mut [u8]) {
    for (to, from) in data.iter_mut().zip(config.get(offset..).unwrap_or_default()) {
        *to = *from;
    }
}

/// The guest's settings: everything that a snapshot of the transport must contain, apart from the queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MmioState {
    device_features_select: u32,
    driver_features_select: u32,
    driver_features: u64,
    queue_select: u32,
    status: u32,
    activated: bool,
}

/// One virtio-mmio device.
pub struct MmioTransport {
    identity: Box<dyn Identity>,
    state: MmioState,
    queues: Vec<Queue>,
    notifiers: Vec<EventFd>,
    interrupt: Arc<Interrupt>,
    memory: GuestMemory,
    worker: Worker,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.identity.device_type())
            .field("state", &self.state)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// Creates the registers of a device whose thread is running. `notifiers` are the eventfds that `worker` waits for.
    pub fn new(
        identity: Box<dyn Identity>,
        memory: GuestMemory,
        interrupt: Arc<Interrupt>,
        notifiers: Vec<EventFd>,
        worker: Worker,
    ) -> Result<Self, virtio_queue::Error> {
        let queues = identity
            .queue_sizes()
            .iter()
            .map(|size| Queue::new(*size))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            identity,
            state: MmioState::default(),
            queues,
            notifiers,
            interrupt,
            memory,
            worker,
        })
    }

    /// The eventfds of the queues, to be attached to [`QUEUE_NOTIFY`].
    #[must_use]
    pub fn notifiers(&self) -> &[EventFd] {
        &self.notifiers
    }

    #[must_use]
    pub fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Asks the device to end after flushing everything; [`Self::join`] waits for it.
    pub fn request_stop(&self) {
        self.worker.request_stop();
    }

    /// Waits until the device has ended.
    pub fn join(&mut self) {
        self.worker.join();
    }

    fn selected_queue(&self) -> Option<&Queue> {
        self.queues.get(usize::try_from(self.state.queue_select).ok()?)
    }

    /// The selected queue while the driver may configure it: after FEATURES_OK, before DRIVER_OK (section 3.1.1).
    fn configurable_queue(&mut self) -> Option<&mut Queue> {
        let allowed = self.has(STATUS_FEATURES_OK) && !self.has(STATUS_DRIVER_OK | STATUS_FAILED);
        self.queues
            .get_mut(usize::try_from(self.state.queue_select).ok()?)
            .filter(|_| allowed)
    }

    /// Whether any of the status bits is set.
    fn has(&self, bits: u32) -> bool {
        self.state.status & bits != 0
    }

    fn read_register(&self, offset: u32) -> u32 {
        let half = |features: u64, select: u32| match select {
            0 => low(features),
            1 => low(features >> 32),
            _ => 0,
        };
        match offset {
            register::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            register::VIRTIO_MMIO_VERSION => VERSION,
            register::VIRTIO_MMIO_DEVICE_ID => self.identity.device_type(),
            register::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            register::VIRTIO_MMIO_DEVICE_FEATURES => half(self.identity.features(), self.state.device_features_select),
            register::VIRTIO_MMIO_QUEUE_NUM_MAX => self.selected_queue().map_or(0, |queue| u32::from(queue.max_size())),
            register::VIRTIO_MMIO_QUEUE_READY => self.selected_queue().map_or(0, |queue| u32::from(queue.ready())),
            register::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            register::VIRTIO_MMIO_STATUS => self.state.status | self.interrupt.device_status(),
            // A length of -1 means that there are no shared memory regions (section 4.2.2).
            register::VIRTIO_MMIO_SHM_LEN_LOW
            | register::VIRTIO_MMIO_SHM_LEN_HIGH
            | register::VIRTIO_MMIO_SHM_BASE_LOW
            | register::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            register::VIRTIO_MMIO_CONFIG_GENERATION => self.identity.config_generation(),
            // Not readable.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u32, value: u32) {
        match offset {
            register::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.state.device_features_select = value,
            register::VIRTIO_MMIO_DRIVER_FEATURES => self.write_driver_features(value),
            register::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.state.driver_features_select = value,
            register::VIRTIO_MMIO_QUEUE_SEL => self.state.queue_select = value,
            register::VIRTIO_MMIO_QUEUE_NUM => {
                if let (Some(queue), Ok(size)) = (self.configurable_queue(), u16::try_from(value)) {
                    queue.set_size(size);
                }
            }
            register::VIRTIO_MMIO_QUEUE_READY => {
                if let Some(queue) = self.configurable_queue() {
                    queue.set_ready(value == 1);
                }
            }
            // KVM normally handles this (ioeventfd). Only an invalid queue index gets here, and is ignored.
            register::VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(notifier) = usize::try_from(value).ok().and_then(|index| self.notifiers.get(index)) {
                    let _ = notifier.write(1);
                }
            }
            register::VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            register::VIRTIO_MMIO_STATUS => self.write_status(value),
            register::VIRTIO_MMIO_QUEUE_DESC_LOW..=register::VIRTIO_MMIO_QUEUE_USED_HIGH => {
                self.write_queue_address(offset, value)
            }
            _ => {}
        }
    }

    fn write_driver_features(&mut self, value: u32) {
        if !self.has(STATUS_DRIVER) || self.has(STATUS_FEATURES_OK | STATUS_FAILED) {
            return;
        }
        let features = &mut self.state.driver_features;
        match self.state.driver_features_select {
            0 => *features = (*features & !u64::from(u32::MAX)) | u64::from(value),
            1 => *features = (*features & u64::from(u32::MAX)) | (u64::from(value) << 32),
            _ => {}
        }
    }

    fn write_queue_address(&mut self, offset: u32, value: u32) {
        let Some(queue) = self.configurable_queue().filter(|queue| !queue.ready()) else {
            return;
        };
        match offset {
            register::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            register::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            register::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            register::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    /// The driver may only add bits, in order, or write zero to reset (section 2.1.1).
    fn write_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        let known = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK | STATUS_FAILED;
        let new = value & known & !self.state.status;
        if value & self.state.status != self.state.status || self.has(STATUS_FAILED) {
            return;
        }
        self.state.status |= new & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FAILED);
        if new & STATUS_FEATURES_OK != 0 && self.has(STATUS_DRIVER) && self.features_acceptable() {
            self.state.status |= STATUS_FEATURES_OK;
        }
        if new & STATUS_DRIVER_OK != 0 && self.has(STATUS_FEATURES_OK) && !self.has(STATUS_FAILED) {
            self.state.status |= STATUS_DRIVER_OK;
            self.activate();
        }
    }

    fn features_acceptable(&self) -> bool {
        let wanted = self.state.driver_features;
        wanted & !self.identity.features() == 0 && wanted & F_VERSION_1 != 0
    }

    fn activate(&mut self) {
        let event_idx = self.state.driver_features & F_EVENT_IDX != 0;
        if !self.queues.iter().all(|queue| queue.is_valid(&self.memory)) {
            self.interrupt.signal_needs_reset();
            return;
        }
        let sizes = self.identity.queue_sizes();
        let mut queues = Vec::with_capacity(sizes.len());
        for (queue, size) in self.queues.iter_mut().zip(sizes) {
            queue.set_event_idx(event_idx);
            // The thread owns the queue from here on; the placeholder answers the registers.
            let Ok(mut placeholder) = Queue::new(*size) else { return };
            placeholder.set_ready(true);
            queues.push(VirtQueue::new(std::mem::replace(queue, placeholder)));
        }
        self.state.activated = true;
        self.worker.activate(Active {
            memory: self.memory.clone(),
            queues,
            interrupt: Arc::clone(&self.interrupt),
            features: self.state.driver_features,
        });
    }

    fn reset(&mut self) {
        if self.state.activated {
            self.worker.reset();
        }
        for queue in &mut self.queues {
            queue.reset();
        }
        self.interrupt.reset();
        self.state = MmioState::default();
    }
}

/// The register at an offset. Registers are 32 bits wide (section 4.2.2.2).
fn register_at(offset: u64) -> Option<u32> {
    let register = u32::try_from(offset).ok()?;
    (offset < CONFIG_SPACE && register.is_multiple_of(4)).then_some(register)
}

fn low(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

impl BusDevice for MmioTransport {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(config_offset) = offset.checked_sub(CONFIG_SPACE) {
            if let Ok(offset) = usize::try_from(config_offset) {
                self.identity.read_config(offset, data);
            }
        } else if data.len() == 4
            && let Some(register) = register_at(offset)
        {
            data.copy_from_slice(&self.read_register(register).to_le_bytes());
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        // No device here has a writable configuration field.
        if let (Ok(bytes), Some(register)) = (<[u8; 4]>::try_from(data), register_at(offset)) {
            self.write_register(register, u32::from_le_bytes(bytes));
        }
    }
}

const _: () =
    assert!(STATUS_NEEDS_RESET & (STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK | STATUS_FEATURES_OK) == 0);

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use proptest::prelude::*;
    use vm_memory::GuestAddress;
    use vmm_sys_util::epoll::EventSet;

    use super::super::GuestError;
    use super::super::worker::{Backend, Poll};
    use super::*;

    struct TestIdentity;

    impl Identity for TestIdentity {
        fn device_type(&self) -> u32 {
            42
        }
        fn features(&self) -> u64 {
            F_VERSION_1 | F_EVENT_IDX | 1
        }
        fn queue_sizes(&self) -> &[u16] {
            &[16, 8]
        }
        fn config(&self) -> &[u8] {
            b"config"
        }
    }

    struct Recorder(mpsc::Sender<String>);

    impl Backend for Recorder {
        fn activate(&mut self, active: &mut Active, _: &Poll) -> Result<(), GuestError> {
            let _ = self.0.send(format!("activate {:#x}", active.features));
            Ok(())
        }
        fn queue_ready(&mut self, index: usize, _: &mut Active, _: &Poll) -> Result<(), GuestError> {
            let _ = self.0.send(format!("queue {index}"));
            Ok(())
        }
        fn host_ready(&mut self, _: u32, _: EventSet, _: Option<&mut Active>, _: &Poll) -> Result<(), GuestError> {
            Ok(())
        }
        fn reset(&mut self, _: &Poll) {
            let _ = self.0.send("reset".into());
        }
    }

    fn transport() -> (MmioTransport, mpsc::Receiver<String>) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let (sender, receiver) = mpsc::channel();
        let notifiers: Vec<EventFd> = (0..2).map(|_| EventFd::new(libc::EFD_NONBLOCK).unwrap()).collect();
        let clones = notifiers.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let worker = Worker::start("test", Recorder(sender), clones, || {}).unwrap();
        let interrupt = Arc::new(Interrupt::new(EventFd::new(libc::EFD_NONBLOCK).unwrap()));
        (
            MmioTransport::new(Box::new(TestIdentity), memory, interrupt, notifiers, worker).unwrap(),
            receiver,
        )
    }

    fn stop(transport: &mut MmioTransport) {
        transport.request_stop();
        transport.join();
    }

    fn read(transport: &mut MmioTransport, offset: u64) -> u32 {
        let mut data = [0; 4];
        transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn write(transport: &mut MmioTransport, offset: u64, value: u32) {
        transport.write(offset, &value.to_le_bytes());
    }

    fn negotiate(transport: &mut MmioTransport, features: u64) {
        write(transport, 0x70, 0);
        write(transport, 0x70, 1);
        write(transport, 0x70, 3);
        for (half, value) in [(0, low(features)), (1, low(features >> 32))] {
            write(transport, 0x24, half);
            write(transport, 0x20, value);
        }
        write(transport, 0x70, 0xb);
    }

    fn set_up_queue(transport: &mut MmioTransport, index: u32, address: u32) {
        write(transport, 0x30, index);
        write(transport, 0x38, 8);
        write(transport, 0x80, address);
        write(transport, 0x90, address + 0x1000);
        write(transport, 0xa0, address + 0x2000);
        write(transport, 0x44, 1);
    }

    #[test]
    fn a_driver_finds_device_features_and_configuration() {
        let (mut transport, _events) = transport();
        assert_eq!(read(&mut transport, 0), MAGIC);
        assert_eq!(read(&mut transport, 4), 2);
        assert_eq!(read(&mut transport, 8), 42);
        assert_eq!(read(&mut transport, 0x10), low(F_EVENT_IDX) | 1);
        write(&mut transport, 0x14, 1);
        assert_eq!(read(&mut transport, 0x10), 1);
        assert_eq!(read(&mut transport, 0x34), 16);
        let mut config = [0u8; 8];
        transport.read(0x102, &mut config);
        assert_eq!(&config, b"nfig\0\0\0\0");
        stop(&mut transport);
    }

    #[test]
    fn a_valid_setup_activates_the_device_and_a_reset_deactivates_it() {
        let (mut transport, events) = transport();
        negotiate(&mut transport, F_VERSION_1);
        set_up_queue(&mut transport, 0, 0x1_0000);
        set_up_queue(&mut transport, 1, 0x2_0000);
        write(&mut transport, 0x70, 0xf);
        assert_eq!(read(&mut transport, 0x70), 0xf);
        assert_eq!(events.recv().unwrap(), format!("activate {F_VERSION_1:#x}"));
        assert_eq!(events.recv().unwrap(), "queue 0");
        assert_eq!(events.recv().unwrap(), "queue 1");
        write(&mut transport, QUEUE_NOTIFY, 1);
        assert_eq!(events.recv().unwrap(), "queue 1");
        write(&mut transport, 0x70, 0);
        assert_eq!(events.recv().unwrap(), "reset");
        assert_eq!(read(&mut transport, 0x70), 0);
        assert_eq!(read(&mut transport, 0x44), 0);
        stop(&mut transport);
    }

    #[test]
    fn features_not_offered_and_legacy_drivers_are_refused() {
        let (mut transport, _events) = transport();
        for features in [F_VERSION_1 | 2, F_EVENT_IDX, 0] {
            negotiate(&mut transport, features);
            assert_eq!(read(&mut transport, 0x70) & STATUS_FEATURES_OK, 0, "{features:#x}");
        }
        stop(&mut transport);
    }

    #[test]
    fn queues_outside_memory_make_the_device_need_a_reset() {
        let (mut transport, events) = transport();
        negotiate(&mut transport, F_VERSION_1);
        set_up_queue(&mut transport, 0, 0x1_0000);
        set_up_queue(&mut transport, 1, 0x20_0000);
        write(&mut transport, 0x70, 0xf);
        assert_eq!(read(&mut transport, 0x70) & STATUS_NEEDS_RESET, STATUS_NEEDS_RESET);
        assert_eq!(read(&mut transport, 0x60), 2);
        stop(&mut transport);
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn queues_cannot_be_moved_while_the_device_runs() {
        let (mut transport, _events) = transport();
        negotiate(&mut transport, F_VERSION_1);
        set_up_queue(&mut transport, 0, 0x1_0000);
        set_up_queue(&mut transport, 1, 0x2_0000);
        write(&mut transport, 0x70, 0xf);
        write(&mut transport, 0x30, 0);
        write(&mut transport, 0x44, 0);
        assert_eq!(read(&mut transport, 0x44), 1);
        stop(&mut transport);
    }

    proptest! {
        #[test]
        fn no_sequence_of_accesses_makes_the_transport_panic(
            accesses in proptest::collection::vec((any::<bool>(), 0u64..0x110, any::<u32>(), 1usize..9), 0..200),
        ) {
            let (mut transport, _events) = transport();
            for (is_write, offset, value, len) in accesses {
                let mut data = u64::from(value % 20).to_le_bytes();
                if is_write {
                    transport.write(offset, &data[..len]);
                } else {
                    transport.read(offset, &mut data[..len]);
                }
            }
            stop(&mut transport);
        }
    }
}
