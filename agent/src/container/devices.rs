//! Which device files a container may use: an eBPF program on its cgroup, with Docker's default rules.
//!
//! The program decides about opening devices; creating device nodes is left to CAP_MKNOD.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A device that every container has: name below /dev, major, minor.
pub const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Other character devices that may be opened: console, ptmx and all pseudo terminals (minor `None`).
const FURTHER_DEVICES: [(u32, Option<u32>); 3] = [(5, Some(1)), (5, Some(2)), (136, None)];

/// One eBPF instruction (`struct bpf_insn`, linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high four bits.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x54;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x74;
const MOVE_IMMEDIATE: u8 = 0xb4;
const JUMP_NOT_EQUAL_IMMEDIATE: u8 = 0x55;
const EXIT: u8 = 0x95;

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// `BPF_DEVCG_DEV_CHAR` and `BPF_DEVCG_ACC_MKNOD`, linux/bpf.h.
const DEVICE_CHARACTER: i32 = 2;
const ACCESS_MKNOD: i32 = 1;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

fn load(destination: u8, field_offset: i16) -> Instruction {
    instruction(LOAD_WORD, destination, CONTEXT, field_offset, 0)
}

fn skip_unless_equal(register: u8, value: i32, instructions: i16) -> Instruction {
    instruction(JUMP_NOT_EQUAL_IMMEDIATE, register, 0, instructions, value)
}

fn answer(program: &mut Vec<Instruction>, allowed: bool) {
    program.push(instruction(MOVE_IMMEDIATE, RESULT, 0, 0, i32::from(allowed)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
}

/// The program: `struct bpf_cgroup_dev_ctx { u32 access_type /* access << 16 | type */; u32 major; u32 minor; }` → 0 or 1.
fn program() -> Vec<Instruction> {
    let mut program = vec![
        load(TYPE, 0),
        load(ACCESS, 0),
        load(MAJOR, 4),
        load(MINOR, 8),
        instruction(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_IMMEDIATE, ACCESS, 0, 0, 16),
        skip_unless_equal(ACCESS, ACCESS_MKNOD, 2),
    ];
    answer(&mut program, true);
    program.push(skip_unless_equal(TYPE, DEVICE_CHARACTER, 2 + 4 * 2));
    let tail = program.len();
    let defaults = DEFAULT_DEVICES.iter().map(|&(_, major, minor)| (major, Some(minor)));
    for (major, minor) in defaults.chain(FURTHER_DEVICES) {
        program.push(skip_unless_equal(
            MAJOR,
            major as i32,
            if minor.is_some() { 3 } else { 2 },
        ));
        if let Some(minor) = minor {
            program.push(skip_unless_equal(MINOR, minor as i32, 2));
        }
        answer(&mut program, true);
    }
    // Fill in the jump over all rules, now that their length is known.
    let rules = program.len() - tail;
    if let Some(jump) = program.get_mut(tail - 1) {
        jump.offset = rules as i16;
    }
    answer(&mut program, false);
    program
}

/// Restricts the processes of a cgroup (given by its directory) to the default devices.
pub fn restrict(cgroup: BorrowedFd<'_>) -> io::Result<()> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    const BPF_CGROUP_DEVICE: u32 = 6;

    /// The beginning of `union bpf_attr` for BPF_PROG_LOAD; the kernel treats missing fields as zero.
    #[repr(C)]
    struct LoadAttributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
    }
    /// The same for BPF_PROG_ATTACH.
    #[repr(C)]
    struct AttachAttributes {
        target_fd: u32,
        program_fd: u32,
        attach_type: u32,
        flags: u32,
    }

    let program = program();
    let license = c"Apache-2.0";
    let load = LoadAttributes {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buffer: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes have the size that is passed; program and license outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const load,
            size_of::<LoadAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel just returned this descriptor to us, and nothing else owns it.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd) };
    let attach = AttachAttributes {
        target_fd: cgroup.as_raw_fd() as u32,
        program_fd: loaded.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        flags: 0,
    };
    // SAFETY: the attributes have the size that is passed; both descriptors are open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attach,
            size_of::<AttachAttributes>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u32 = 1;
    const CHARACTER: u32 = 2;
    const MKNOD: u32 = 1;
    const READ: u32 = 2;
    const WRITE: u32 = 4;

    /// Runs the program as the kernel would; panics where the verifier would reject it.
    fn allowed(device_type: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [(access << 16) | device_type, major, minor];
        let program = program();
        let mut registers = [0_u64; 11];
        let mut next = 0_usize;
        loop {
            let instruction = program[next];
            let (destination, source) = (instruction.registers & 0xf, instruction.registers >> 4);
            let value = &mut registers[usize::from(destination)];
            next += 1;
            match instruction.code {
                LOAD_WORD => {
                    assert_eq!(source, CONTEXT);
                    *value = u64::from(context[usize::try_from(instruction.offset).unwrap() / 4]);
                }
                AND_IMMEDIATE => *value = u64::from(*value as u32 & instruction.immediate as u32),
                SHIFT_RIGHT_IMMEDIATE => *value = u64::from(*value as u32 >> instruction.immediate),
                MOVE_IMMEDIATE => *value = u64::from(instruction.immediate as u32),
                JUMP_NOT_EQUAL_IMMEDIATE => {
                    if *value != instruction.immediate as u64 {
                        next += usize::try_from(instruction.offset).unwrap();
                    }
                }
                EXIT => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    #[test]
    fn the_default_devices_can_be_read_and_written() {
        for (name, major, minor) in DEFAULT_DEVICES {
            assert!(allowed(CHARACTER, READ | WRITE, major, minor), "{name}");
        }
        assert!(allowed(CHARACTER, READ | WRITE, 5, 2), "ptmx");
        assert!(allowed(CHARACTER, READ | WRITE, 136, 7), "a pseudo terminal");
    }

    #[test]
    fn other_devices_cannot_be_opened() {
        assert!(!allowed(CHARACTER, READ, 1, 1), "/dev/mem");
        assert!(!allowed(CHARACTER, WRITE, 1, 11), "/dev/kmsg");
        assert!(!allowed(BLOCK, READ, 254, 0), "a virtio disk");
        assert!(
            !allowed(BLOCK, READ, 1, 3),
            "a block device with the number of /dev/null"
        );
        assert!(!allowed(CHARACTER, READ, 10, 200), "/dev/net/tun");
    }

    #[test]
    fn mknod_is_allowed_but_does_not_allow_opening() {
        assert!(allowed(BLOCK, MKNOD, 254, 0));
        assert!(!allowed(BLOCK, MKNOD | READ, 254, 0));
    }
}
