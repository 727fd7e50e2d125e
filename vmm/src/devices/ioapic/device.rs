//! The controller's registers. KVM gets their content and delivers the interrupts.

use std::sync::Arc;

use kvm_bindings::{
    KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_entry__bindgen_ty_1, kvm_irq_routing_msi,
};
use kvm_ioctls::VmFd;

use super::redirection::{Message, Redirection};
use crate::bus::BusDevice;
use crate::report::report;

/// Size of the register window in bytes.
pub const IOAPIC_SIZE: u64 = 0x1000;
/// Index register.
const SELECT: u64 = 0x00;
/// Window to the selected register.
const WINDOW: u64 = 0x10;
const ID: u8 = 0;
const VERSION: u8 = 1;
const ARBITRATION: u8 = 2;
/// First register of the redirection table, which has two registers per line.
const TABLE: u8 = 0x10;
/// Version of a discrete 82093AA, which has no EOI register.
const VERSION_82093AA: u32 = 0x11;

/// Delivers the interrupts.
pub trait Delivery: Send {
    /// Replaces all routes: the lines with these numbers send these messages, and no other line sends any.
    fn route(&mut self, lines: &[(u32, Message)]);
}

/// KVM. Every line's eventfd is attached to it (`KVM_IRQFD`).
#[derive(Debug)]
pub struct KvmDelivery(pub Arc<VmFd>);

impl Delivery for KvmDelivery {
    fn route(&mut self, lines: &[(u32, Message)]) {
        let entries: Vec<_> = lines
            .iter()
            .map(|(line, message)| kvm_irq_routing_entry {
                gsi: *line,
                type_: KVM_IRQ_ROUTING_MSI,
                u: kvm_irq_routing_entry__bindgen_ty_1 {
                    msi: kvm_irq_routing_msi {
                        address_lo: message.address,
                        data: message.data,
                        ..Default::default()
                    },
                },
                ..Default::default()
            })
            .collect();
        let routed = KvmIrqRouting::from_entries(&entries)
            .map_err(|error| format!("{error:?}"))
            .and_then(|routing| self.0.set_gsi_routing(&routing).map_err(|error| error.to_string()));
        if let Err(error) = routed {
            // The guest keeps running without this interrupt, and its own timeouts show what is missing.
            report(format_args!(
                "KVM refused the guest's interrupt routing (KVM_SET_GSI_ROUTING): {error}"
            ));
        }
    }
}

#[derive(Debug)]
pub struct IoApic<D> {
    delivery: D,
    selected: u8,
    id: u32,
    lines: Vec<Redirection>,
}

impl<D: Delivery> IoApic<D> {
    /// A controller with `line_count` lines, all masked.
    #[must_use]
    pub fn new(line_count: u8, delivery: D) -> Self {
        Self {
            delivery,
            selected: 0,
            id: 0,
            lines: vec![Redirection::default(); usize::from(line_count)],
        }
    }

    /// Line and half of the selected redirection register.
    fn selected_line(&self) -> Option<(usize, u8)> {
        let register = self.selected.checked_sub(TABLE)?;
        Some((usize::from(register / 2), register % 2))
    }

    fn read_register(&self) -> u32 {
        match self.selected {
            ID | ARBITRATION => self.id,
            VERSION => {
                let last = u32::try_from(self.lines.len().saturating_sub(1)).unwrap_or(0);
                last << 16 | VERSION_82093AA
            }
            _ => {
                let line = self.selected_line();
                line.and_then(|(line, half)| Some(self.lines.get(line)?.half(half)))
                    .unwrap_or(0)
            }
        }
    }

    fn write_register(&mut self, value: u32) {
        if self.selected == ID {
            self.id = value & 0x0f00_0000;
            return;
        }
        let Some((line, half)) = self.selected_line() else {
            return;
        };
        let Some(entry) = self.lines.get_mut(line) else { return };
        let before = entry.message();
        *entry = entry.with_half(half, value);
        // New routes cost KVM a grace period, so pass them on only if a message has changed.
        if entry.message() != before {
            let lines = (0u32..).zip(&self.lines);
            let routes: Vec<_> = lines
                .filter_map(|(number, entry)| Some((number, entry.message()?)))
                .collect();
            self.delivery.route(&routes);
        }
    }
}

impl<D: Delivery> BusDevice for IoApic<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.selected),
            WINDOW => self.read_register(),
            _ => return,
        };
        for (byte, value) in data.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match (offset, data) {
            (SELECT, [selected, ..]) => self.selected = *selected,
            // Narrower accesses are undefined.
            (WINDOW, [a, b, c, d]) => self.write_register(u32::from_le_bytes([*a, *b, *c, *d])),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Default)]
    struct Recorded(Vec<Vec<(u32, Message)>>);

    impl Delivery for Recorded {
        fn route(&mut self, lines: &[(u32, Message)]) {
            self.0.push(lines.to_vec());
        }
    }

    fn write(ioapic: &mut IoApic<Recorded>, register: u8, value: u32) {
        ioapic.write(SELECT, &u32::from(register).to_le_bytes());
        ioapic.write(WINDOW, &value.to_le_bytes());
    }

    fn read(ioapic: &mut IoApic<Recorded>, register: u8) -> u32 {
        ioapic.write(SELECT, &u32::from(register).to_le_bytes());
        let mut data = [0; 4];
        ioapic.read(WINDOW, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_version_register_has_the_number_of_lines() {
        let mut ioapic = IoApic::new(8, Recorded::default());
        assert_eq!(read(&mut ioapic, VERSION), 7 << 16 | 0x11);
    }

    #[test]
    fn an_unmasked_line_is_routed_and_a_masked_one_unrouted() {
        let mut ioapic = IoApic::new(8, Recorded::default());
        write(&mut ioapic, TABLE + 10, 0x31);
        let message = Message {
            address: 0xfee0_0000,
            data: 0x31,
        };
        assert_eq!(ioapic.delivery.0, [vec![(5, message)]]);
        write(&mut ioapic, TABLE + 10, 0x1_0031);
        assert_eq!(ioapic.delivery.0[1..], [vec![]]);
    }

    #[test]
    fn writing_a_masked_line_routes_nothing() {
        let mut ioapic = IoApic::new(8, Recorded::default());
        write(&mut ioapic, TABLE + 4, 0x1_0031);
        write(&mut ioapic, TABLE + 5, 0x0100_0000);
        assert!(ioapic.delivery.0.is_empty());
        assert_eq!(read(&mut ioapic, TABLE + 5), 0x0100_0000);
    }

    proptest! {
        #[test]
        fn accesses_to_missing_lines_are_ignored(
            accesses in proptest::collection::vec((any::<bool>(), 0u64..0x50, proptest::collection::vec(any::<u8>(), 0..9)), 0..200),
        ) {
            let mut ioapic = IoApic::new(6, Recorded::default());
            for (is_write, offset, mut data) in accesses {
                if is_write {
                    ioapic.write(offset, &data);
                } else {
                    ioapic.read(offset, &mut data);
                }
            }
            prop_assert!(ioapic.delivery.0.iter().flatten().all(|(line, _)| *line < 6));
        }
    }
}
