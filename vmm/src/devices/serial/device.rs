//! The 16550 serial port and the keyboard controller's reset line, as bus devices.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_superio::serial::NoEvents;
use vm_superio::{I8042Device, Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::console::ConsoleWriter;
use crate::bus::BusDevice;

/// First port of COM1.
pub const SERIAL_PORT: u64 = 0x3f8;
/// Number of ports of COM1.
pub const SERIAL_PORT_COUNT: u64 = 8;
/// First port of the keyboard controller.
pub const I8042_PORT: u64 = 0x60;
/// Number of ports of the keyboard controller.
pub const I8042_PORT_COUNT: u64 = 5;

/// The serial port's interrupt line.
#[derive(Debug)]
pub struct SerialInterrupt(pub EventFd);

impl Trigger for SerialInterrupt {
    type E = std::io::Error;
    fn trigger(&self) -> std::io::Result<()> {
        self.0.write(1)
    }
}

/// COM1.
#[derive(Debug)]
pub struct SerialDevice(Serial<SerialInterrupt, NoEvents, ConsoleWriter>);

impl SerialDevice {
    /// A port that writes to `console` and interrupts through `interrupt`.
    #[must_use]
    pub fn new(interrupt: EventFd, console: ConsoleWriter) -> Self {
        Self(Serial::new(SerialInterrupt(interrupt), console))
    }
}

impl BusDevice for SerialDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        // The registers are a byte wide, and impossible offsets read as zero. A string instruction reads the same
        // register repeatedly, and KVM passes it on as one access.
        let Ok(offset) = u8::try_from(offset) else { return };
        for byte in data {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(offset) = u8::try_from(offset) else { return };
        for byte in data {
            // The console never fails. An interrupt that cannot be raised has the same effect as one that the guest has
            // masked.
            let _ = self.0.write(offset, *byte);
        }
    }
}

/// Set once the guest has asked to reset the VM.
#[derive(Debug, Clone, Default)]
pub struct ResetRequest(Arc<AtomicBool>);

impl ResetRequest {
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Trigger for ResetRequest {
    type E = Infallible;
    fn trigger(&self) -> Result<(), Infallible> {
        self.0.store(true, Ordering::Release);
        Ok(())
    }
}

/// The keyboard controller, reduced to the processor's reset line (`reboot=k`).
pub struct ResetDevice(I8042Device<ResetRequest>);

impl std::fmt::Debug for ResetDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ResetDevice").field(self.0.reset_evt()).finish()
    }
}

impl ResetDevice {
    /// A controller that sets `request` when the guest pulls the reset line.
    #[must_use]
    pub fn new(request: ResetRequest) -> Self {
        Self(I8042Device::new(request))
    }
}

impl BusDevice for ResetDevice {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            *byte = self.0.read(offset);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([byte], Ok(offset)) = (data, u8::try_from(offset)) {
            let Ok(()) = self.0.write(offset, *byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_reset_command_requests_a_reset() {
        let request = ResetRequest::default();
        let mut device = ResetDevice::new(request.clone());
        device.write(0, &[0xfe]);
        device.write(4, &[0xff]);
        device.write(4, &[0xfe, 0xfe]);
        assert!(!request.is_set());
        device.write(4, &[0xfe]);
        assert!(request.is_set());
    }
}
