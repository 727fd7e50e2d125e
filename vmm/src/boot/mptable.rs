//! The MP table describes processors and interrupt lines to a kernel without ACPI (Intel
//! MultiProcessor Specification 1.4).

use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use super::layout;
use crate::memory::GuestMemory;

const APIC_VERSION: u8 = 0x14;
const BUS_ISA: u8 = 0;

/// The byte that makes the sum of all bytes zero (section 4.1).
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// Builds the table (floating pointer, header, entries) to be placed at `address`, for a VM of `vcpu_count`
/// processors with devices at `interrupt_lines`.
fn build(vcpu_count: u8, interrupt_lines: &[u8], address: u32) -> Vec<u8> {
    let ioapic_id = vcpu_count; // The first id that no processor has.
    let mut entries: Vec<u8> = Vec::with_capacity(1024);
    let mut entry_count = 0u16;
    let mut push = |bytes: &[u8]| {
        entries.extend_from_slice(bytes);
        entry_count += 1;
    };
    for id in 0..vcpu_count {
        // Processor: enabled (bit 0), boot processor (bit 1); signature and features as old kernels expect them.
        let flags = if id == 0 { 3 } else { 1 };
        let mut entry = [0u8; 20];
        entry[..4].copy_from_slice(&[0, id, APIC_VERSION, flags]);
        entry[4..8].copy_from_slice(&0x600u32.to_le_bytes());
        entry[8..12].copy_from_slice(&0x201u32.to_le_bytes());
        push(&entry);
    }
    push(&[1, BUS_ISA, b'I', b'S', b'A', b' ', b' ', b' ']);
    let [a, b, c, d] = layout::IOAPIC.to_le_bytes();
    push(&[2, ioapic_id, APIC_VERSION, 1, a, b, c, d]);
    for &irq in interrupt_lines {
        // Interrupt line: type INT, polarity and trigger of the bus (edge, high), bus, line, I/O APIC, its pin.
        push(&[3, 0, 0, 0, BUS_ISA, irq, ioapic_id, irq]);
    }

    let table_len = u16::try_from(44 + entries.len()).unwrap_or(u16::MAX);
    let mut header = [0u8; 44];
    header[..4].copy_from_slice(b"PCMP");
    header[4..6].copy_from_slice(&table_len.to_le_bytes());
    header[6] = 4; // Revision 1.4.
    header[8..16].copy_from_slice(b"MICROKUB");
    header[16..28].copy_from_slice(b"MICROVM     ");
    header[34..36].copy_from_slice(&entry_count.to_le_bytes());
    header[36..40].copy_from_slice(&layout::LAPIC.to_le_bytes());
    let mut table = header.to_vec();
    table.append(&mut entries);
    table[7] = checksum(&table);

    let mut pointer = [0u8; 16];
    pointer[..4].copy_from_slice(b"_MP_");
    pointer[4..8].copy_from_slice(&(address + 16).to_le_bytes());
    pointer[8] = 1; // Length in units of 16 bytes.
    pointer[9] = 4;
    pointer[10] = checksum(&pointer);
    let mut all = pointer.to_vec();
    all.append(&mut table);
    all
}

/// Writes the table where Linux looks for it.
pub(super) fn write(memory: &GuestMemory, vcpu_count: u8, interrupt_lines: &[u8]) -> Result<(), BootError> {
    let address = u32::try_from(layout::MPTABLE).unwrap_or(0);
    let table = build(vcpu_count, interrupt_lines, address);
    if table.len() as u64 > layout::MPTABLE_END - layout::MPTABLE {
        return Err(BootError::TooManyVcpus(vcpu_count));
    }
    memory
        .write_slice(&table, GuestAddress(layout::MPTABLE))
        .map_err(BootError::WriteTables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MAX_VCPU_COUNT;

    const ALL_LINES: [u8; layout::IRQ_COUNT as usize] = {
        let mut lines = [0; layout::IRQ_COUNT as usize];
        let mut line = 0;
        while line < layout::IRQ_COUNT {
            lines[line as usize] = line;
            line += 1;
        }
        lines
    };

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn both_checksums_add_up_to_zero() {
        for vcpus in [1, 2, MAX_VCPU_COUNT] {
            let table = build(vcpus, &[4, 5, 6], 0x9_fc00);
            assert_eq!(sum(&table[..16]), 0);
            assert_eq!(sum(&table[16..]), 0);
        }
    }

    #[test]
    fn the_largest_table_fits_its_reserved_space() {
        assert!(build(MAX_VCPU_COUNT, &ALL_LINES, 0).len() as u64 <= layout::MPTABLE_END - layout::MPTABLE);
    }

    #[test]
    fn the_header_counts_its_entries() {
        let table = build(2, &[4, 5, 6], 0);
        // Two processors, a bus, an I/O APIC, three lines.
        assert_eq!(u16::from_le_bytes([table[16 + 34], table[16 + 35]]), 2 + 1 + 1 + 3);
        assert_eq!(
            usize::from(u16::from_le_bytes([table[20], table[21]])),
            table.len() - 16
        );
    }
}
