//! The VMM against a guest without a kernel, whose rings keep the block device busy forever: the device must still obey
//! commands of the transport, and the VM must end when the guest resets it.
//!
//! The guest consists of a few instructions that execute a list of writes and waits; everything else (page tables,
//! rings, list) is prepared here.

use std::arch::global_asm;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use microkube_tests::built::microkube_program;
use microkube_vmm::boot::layout::{HIGH_MEMORY, VIRTIO_MMIO};

use crate::host::{Running, alone};

/// The guest's memory layout.
const CODE: u64 = HIGH_MEMORY;
const LIST: u64 = CODE + 0x1000;
const TABLES: u64 = CODE + 0x1_0000;
const QUEUE: u64 = CODE + 0x2_0000;
const AVAILABLE: u64 = QUEUE + 0x1000;
const USED: u64 = QUEUE + 0x2000;
const HEADER: u64 = QUEUE + 0x3000;
const FLUSH_HEADER: u64 = HEADER + 0x40;
const STATUS: u64 = HEADER + 0x80;
const DATA: u64 = QUEUE + 0x4000;
const IMAGE_BYTES: usize = 0x2_8000;
/// After the loaded image.
const LARGE_DATA: u64 = 0x100_0000;
const LARGE_BYTES: u32 = 64 << 20;

const QUEUE_SIZE: u16 = 256;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const COM1: u64 = 0x3f8;
/// The keyboard controller's command port, and the command that resets the VM.
const RESET: (u64, u32) = (0x64, 0xfe);

// Executes the list of (operation, address, value), 4 bytes each: 1 stores the value, 2 waits until the 16 bits at the
// address reach the value, 3 writes a byte to a port, 0 halts.
global_asm!(
    ".pushsection .rodata.hostile_guest, \"a\"",
    ".globl hostile_guest_begin",
    "hostile_guest_begin:",
    "cli",
    "mov eax, {tables}",
    "mov cr3, rax",
    "mov esi, {list}",
    "2:",
    "mov eax, dword ptr [rsi]",
    "mov edi, dword ptr [rsi + 4]",
    "mov ecx, dword ptr [rsi + 8]",
    "add rsi, 12",
    "cmp eax, 1",
    "je 3f",
    "cmp eax, 2",
    "je 4f",
    "cmp eax, 3",
    "je 5f",
    "6:",
    "hlt",
    "jmp 6b",
    "3:",
    "mov dword ptr [rdi], ecx",
    "jmp 2b",
    "4:",
    "movzx eax, word ptr [rdi]",
    "cmp eax, ecx",
    "jb 4b",
    "jmp 2b",
    "5:",
    "mov edx, edi",
    "mov eax, ecx",
    "out dx, al",
    "jmp 2b",
    ".globl hostile_guest_end",
    "hostile_guest_end:",
    ".popsection",
    tables = const TABLES,
    list = const LIST,
);

unsafe extern "C" {
    static hostile_guest_begin: u8;
    static hostile_guest_end: u8;
}

fn code() -> &'static [u8] {
    let (begin, end) = (&raw const hostile_guest_begin, &raw const hostile_guest_end);
    // SAFETY: the symbols enclose the read-only bytes that the assembler emitted above.
    unsafe { std::slice::from_raw_parts(begin, usize::try_from(end.offset_from(begin)).unwrap()) }
}

/// The guest's memory as loaded, starting at [`CODE`], and its list.
struct Guest {
    image: Vec<u8>,
    list: Vec<u8>,
}

impl Guest {
    fn new() -> Self {
        let mut guest = Self {
            image: vec![0; IMAGE_BYTES],
            list: Vec::new(),
        };
        guest.put(CODE, code());
        // Maps all 4 GiB to themselves, in pages of 2 MiB: the devices are above 3 GiB.
        guest.put(TABLES, &((TABLES + 0x1000) | 3).to_le_bytes());
        for gib in 0..4 {
            let directory = TABLES + 0x2000 + gib * 0x1000;
            guest.put(TABLES + 0x1000 + gib * 8, &(directory | 3).to_le_bytes());
            for page in 0..512 {
                let entry = (gib << 30) | (page << 21) | 0x83;
                guest.put(directory + page * 8, &entry.to_le_bytes());
            }
        }
        guest
    }

    fn put(&mut self, address: u64, bytes: &[u8]) {
        let at = usize::try_from(address - CODE).unwrap();
        self.image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn operation(&mut self, kind: u32, address: u64, value: u32) {
        let address = u32::try_from(address).unwrap();
        for word in [kind, address, value] {
            self.list.extend_from_slice(&word.to_le_bytes());
        }
    }

    fn store(&mut self, address: u64, value: u32) {
        self.operation(1, address, value);
    }

    fn wait_until_used(&mut self, requests: u16) {
        self.operation(2, USED + 2, u32::from(requests));
    }

    fn out(&mut self, (port, value): (u64, u32)) {
        self.operation(3, port, value);
    }

    fn say(&mut self, text: &str) {
        for byte in text.bytes() {
            self.out((COM1, u32::from(byte)));
        }
    }

    fn register(&mut self, offset: u64, value: u32) {
        self.store(VIRTIO_MMIO + offset, value);
    }

    /// Stores a chain in the descriptor table, starting at index `first`: address, length, flags without [`NEXT`].
    fn chain(&mut self, first: u64, descriptors: &[(u64, u32, u16)]) {
        for (index, (address, length, flags)) in (first..).zip(descriptors) {
            let last = index + 1 == first + descriptors.len() as u64;
            let flags = if last { *flags } else { *flags | NEXT };
            let at = QUEUE + index * 16;
            self.store(at, u32::try_from(*address).unwrap());
            self.store(at + 4, 0);
            self.store(at + 8, *length);
            self.store(at + 12, u32::from(flags) | (u32::try_from(index + 1).unwrap() << 16));
        }
    }

    /// Fills the available ring, and makes the first `count` entries available.
    fn offer(&mut self, count: u16, head: impl Fn(u16) -> u16) {
        for place in (0..QUEUE_SIZE).step_by(2) {
            let pair = u32::from(head(place)) | (u32::from(head(place + 1)) << 16);
            self.store(AVAILABLE + 4 + u64::from(place) * 2, pair);
        }
        self.store(AVAILABLE, u32::from(count) << 16);
        self.store(USED, 0);
        // Reads from sector 0.
        for word in 0..4 {
            self.store(HEADER + word * 4, 0);
        }
    }

    /// Starts the block device, which begins with the contents of its ring.
    fn start_device(&mut self) {
        for status in [1, 3] {
            self.register(0x70, status);
        }
        // VIRTIO_F_VERSION_1, in the upper half.
        self.register(0x24, 1);
        self.register(0x20, 1);
        self.register(0x70, 0xb);
        self.register(0x30, 0);
        self.register(0x38, u32::from(QUEUE_SIZE));
        for (offset, address) in [(0x80, QUEUE), (0x90, AVAILABLE), (0xa0, USED)] {
            self.register(offset, u32::try_from(address).unwrap());
            self.register(offset + 4, 0);
        }
        self.register(0x44, 1);
        self.register(0x70, 0xf);
    }

    fn reset_device(&mut self) {
        self.register(0x70, 0);
    }

    /// Requests whose answers make more requests available, endlessly.
    fn feed_the_ring_from_the_disk(&mut self) {
        let feeding = [
            (HEADER, 16, 0),
            (AVAILABLE, 4, WRITE),
            (HEADER, 16, WRITE),
            (DATA, 492, WRITE),
            (STATUS, 1, WRITE),
        ];
        self.chain(0, &feeding);
        self.chain(5, &[(FLUSH_HEADER, 16, 0), (STATUS, 1, WRITE)]);
        self.store(FLUSH_HEADER, 4);
        self.offer(1, |place| if place % STEP == 0 { 0 } else { 5 });
        self.start_device();
        self.wait_until_used(1000);
    }

    /// A ring full of requests for 4 GiB each, all with the same buffers.
    fn ask_for_a_tebibyte(&mut self) {
        let mut descriptors = vec![(HEADER, 16, 0)];
        descriptors.extend([(LARGE_DATA, LARGE_BYTES, WRITE); 63]);
        descriptors.push((STATUS, 1, WRITE));
        self.chain(0, &descriptors);
        self.offer(QUEUE_SIZE, |_| 0);
        self.start_device();
    }

    /// Writes the guest as an ELF file.
    fn write(mut self, path: &Path) {
        self.operation(0, 0, 0);
        let list = std::mem::take(&mut self.list);
        assert!(LIST + list.len() as u64 <= TABLES);
        self.put(LIST, &list);
        const HEADERS: u64 = 64 + 56;
        let mut elf = Vec::new();
        elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        for half in [2u16, 62] {
            elf.extend_from_slice(&half.to_le_bytes()); // executable, x86-64
        }
        elf.extend_from_slice(&1u32.to_le_bytes());
        for word in [CODE, 64, 0] {
            elf.extend_from_slice(&word.to_le_bytes()); // entry, program headers, section headers
        }
        elf.extend_from_slice(&0u32.to_le_bytes());
        for half in [64u16, 56, 1, 64, 0, 0] {
            elf.extend_from_slice(&half.to_le_bytes());
        }
        elf.extend_from_slice(&1u32.to_le_bytes()); // PT_LOAD
        elf.extend_from_slice(&7u32.to_le_bytes());
        let length = self.image.len() as u64;
        for word in [HEADERS, CODE, CODE, length, length, 0x1000] {
            elf.extend_from_slice(&word.to_le_bytes());
        }
        elf.extend_from_slice(&self.image);
        std::fs::write(path, elf).unwrap();
    }
}

/// Number of requests that each answer of [`Guest::feed_the_ring_from_the_disk`] makes available.
const STEP: u16 = QUEUE_SIZE / 2;

/// The disk that feeds the ring: each sector contains the ring's next index and the header of the request for the next
/// sector. A hole of 5 GiB follows.
fn write_disk(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(5 << 30).unwrap();
    let sectors = u32::from(u16::MAX) / u32::from(STEP) + 1;
    for sector in 0..sectors {
        let available = u16::try_from((sector + 2) * u32::from(STEP) % 0x1_0000).unwrap();
        let next = u64::from((sector + 1) % sectors);
        let bytes = [&[0; 2], &available.to_le_bytes()[..], &[0; 8], &next.to_le_bytes()].concat();
        file.write_all_at(&bytes, u64::from(sector) * 512).unwrap();
    }
}

#[test]
fn a_guest_with_never_empty_rings_can_reset_its_device_and_end_its_vm() {
    let _alone = alone();
    let directory = tempfile::tempdir().unwrap();
    let (kernel, disk) = (directory.path().join("guest"), directory.path().join("disk"));
    write_disk(&disk);
    let mut guest = Guest::new();
    guest.feed_the_ring_from_the_disk();
    guest.reset_device();
    guest.say("self-feeding ring reset\n");
    guest.ask_for_a_tebibyte();
    guest.reset_device();
    guest.say("giant requests reset\n");
    guest.ask_for_a_tebibyte();
    guest.out(RESET);
    guest.write(&kernel);

    let program = microkube_program().with_file_name("microkube-vmm");
    let mut command = Command::new(program);
    command
        .args(["run", "--memory-mib", "128", "--kernel"])
        .arg(&kernel)
        .arg("--disk")
        .arg(&disk);
    let text = Running::start(command, None).finish().success();
    assert_eq!(text, "self-feeding ring reset\ngiant requests reset\n");
}
