//! A device's interrupt line and the status bits that go with it.

use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::EventFd;

/// Interrupt status: a used ring changed (section 4.2.2).
pub const VRING: u32 = VIRTIO_MMIO_INT_VRING;
/// Interrupt status: the configuration changed.
pub const CONFIG: u32 = VIRTIO_MMIO_INT_CONFIG;
/// Device status: the device gave up and needs a reset (section 2.1).
pub const STATUS_NEEDS_RESET: u32 = VIRTIO_CONFIG_S_NEEDS_RESET;

/// Shared by a device's transport and its thread.
#[derive(Debug)]
pub struct Interrupt {
    /// InterruptStatus as the guest reads it.
    status: AtomicU32,
    /// Device status bits that the device sets itself.
    device_status: AtomicU32,
    /// Connected to the interrupt controller (`KVM_IRQFD`).
    line: EventFd,
}

impl Interrupt {
    /// An interrupt that pulses `line`.
    #[must_use]
    pub fn new(line: EventFd) -> Self {
        Self {
            status: AtomicU32::new(0),
            device_status: AtomicU32::new(0),
            line,
        }
    }

    /// The line, to be connected to the interrupt controller.
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// Notifies the driver that buffers were used.
    pub fn signal_used(&self) {
        self.raise(VRING);
    }

    /// Notifies the driver that the configuration space has changed.
    pub fn signal_config_changed(&self) {
        self.raise(CONFIG);
    }

    /// Notifies the driver that the device has failed and does nothing until it is reset.
    pub fn signal_needs_reset(&self) {
        self.device_status.fetch_or(STATUS_NEEDS_RESET, Ordering::SeqCst);
        self.raise(CONFIG);
    }

    fn raise(&self, bit: u32) {
        self.status.fetch_or(bit, Ordering::SeqCst);
        // The counter of an eventfd overflows after 2^64-2 unread pulses; KVM reads them.
        let _ = self.line.write(1);
    }

    pub(in super::super) fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }

    pub(super) fn device_status(&self) -> u32 {
        self.device_status.load(Ordering::SeqCst)
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::SeqCst);
        self.device_status.store(0, Ordering::SeqCst);
    }
}
