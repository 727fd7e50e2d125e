//! BPF programs for seccomp (linux/filter.h, linux/seccomp.h).

use std::collections::BTreeMap;

/// Maximum number of instructions of a program (`BPF_MAXINSNS`, linux/bpf_common.h).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// `AUDIT_ARCH_X86_64`, linux/audit.h.
const X86_64: u32 = 0xc000_003e;
/// `SECCOMP_RET_KILL_PROCESS`
const KILL_PROCESS: u32 = 0x8000_0000;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_GREATER: u16 = 0x25;
const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// `struct sock_filter`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    /// How many instructions to skip if the condition holds.
    pub jt: u8,
    /// How many instructions to skip otherwise.
    pub jf: u8,
    pub k: u32,
}

impl Instruction {
    /// Encodes it for the kernel on x86-64.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        let [code_low, code_high] = self.code.to_le_bytes();
        let [k0, k1, k2, k3] = self.k.to_le_bytes();
        [code_low, code_high, self.jt, self.jf, k0, k1, k2, k3]
    }
}

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// How an argument is compared with a value, as unsigned 64-bit numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// The bits of the mask are equal.
    MaskedEqual {
        mask: u64,
    },
}

/// A condition of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Number of the argument, 0 to 5.
    pub argument: u32,
    pub operator: Operator,
    pub value: u64,
}

/// The rules of one system call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Conditions that must all hold, and the action then. The first rule that matches counts.
    conditional: Vec<(Vec<Condition>, u32)>,
    /// The action if no rule matches; `None` means the default.
    otherwise: Option<u32>,
}

impl Rules {
    /// Adds a rule. If several rules have no conditions, the first counts.
    pub fn add(&mut self, conditions: Vec<Condition>, action: u32) {
        if conditions.is_empty() {
            self.otherwise.get_or_insert(action);
        } else {
            self.conditional.push((conditions, action));
        }
    }

    fn assemble(&self, default: u32) -> Vec<Instruction> {
        let mut block = Vec::new();
        for (conditions, action) in &self.conditional {
            let rule = assemble_conditions(conditions);
            block.extend(rule);
            block.push(plain(RETURN, *action));
        }
        block.push(plain(RETURN, self.otherwise.unwrap_or(default)));
        block
    }
}

/// A program that applies the rules of each system call by its number.
pub fn assemble(rules: &BTreeMap<u32, Rules>, default: u32) -> Vec<Instruction> {
    let mut program = vec![
        plain(LOAD, ARCHITECTURE),
        Instruction {
            code: JUMP_IF_EQUAL,
            jt: 1,
            jf: 0,
            k: X86_64,
        },
        plain(RETURN, KILL_PROCESS),
        plain(LOAD, NUMBER),
    ];
    for (number, rules) in rules {
        let block = rules.assemble(default);
        // The offsets of a conditional jump have eight bits.
        program.push(Instruction {
            code: JUMP_IF_EQUAL,
            jt: 1,
            jf: 0,
            k: *number,
        });
        program.push(plain(JUMP, u32::try_from(block.len()).unwrap_or(u32::MAX)));
        program.extend(block);
    }
    program.push(plain(RETURN, default));
    program
}

/// The target of a conditional jump.
#[derive(Debug, Clone, Copy)]
enum Target {
    Next,
    /// To the next condition: this one holds.
    Holds,
    /// Past the rule and its action: a condition does not hold.
    Fails,
}

use Target::{Fails, Holds, Next};

/// An instruction whose targets are not numbers yet.
type Draft = (u16, u32, Target, Target);

/// Continues after these instructions if all conditions hold; otherwise skips one more instruction, the rule's action.
/// Six conditions have at most 36 instructions, so the jumps fit into eight bits.
fn assemble_conditions(conditions: &[Condition]) -> Vec<Instruction> {
    let drafts: Vec<Vec<Draft>> = conditions.iter().map(draft).collect();
    let length: usize = drafts.iter().map(Vec::len).sum();
    let mut instructions: Vec<Instruction> = Vec::with_capacity(length);
    for draft in drafts {
        let end = instructions.len() + draft.len();
        for (code, k, if_true, if_false) in draft {
            let next = instructions.len() + 1;
            let offset = |target| {
                let to = match target {
                    Next => next,
                    Holds => end,
                    Fails => length + 1,
                };
                u8::try_from(to - next).unwrap_or(u8::MAX)
            };
            instructions.push(Instruction {
                code,
                jt: offset(if_true),
                jf: offset(if_false),
                k,
            });
        }
    }
    instructions
}

fn draft(condition: &Condition) -> Vec<Draft> {
    let offset = ARGUMENTS + 8 * condition.argument;
    let (low, high) = (condition.value as u32, (condition.value >> 32) as u32);
    let load_low = (LOAD, offset, Next, Next);
    let load_high = (LOAD, offset + 4, Next, Next);
    let greater = |low_code, is_wanted| {
        let (yes, no) = match is_wanted {
            true => (Holds, Fails),
            false => (Fails, Holds),
        };
        vec![
            load_high,
            (JUMP_IF_GREATER, high, yes, Next),
            (JUMP_IF_EQUAL, high, Next, no),
            load_low,
            (low_code, low, yes, no),
        ]
    };
    match condition.operator {
        Operator::Equal => vec![
            load_high,
            (JUMP_IF_EQUAL, high, Next, Fails),
            load_low,
            (JUMP_IF_EQUAL, low, Holds, Fails),
        ],
        Operator::NotEqual => vec![
            load_high,
            (JUMP_IF_EQUAL, high, Next, Holds),
            load_low,
            (JUMP_IF_EQUAL, low, Fails, Holds),
        ],
        Operator::Greater => greater(JUMP_IF_GREATER, true),
        Operator::GreaterOrEqual => greater(JUMP_IF_GREATER_OR_EQUAL, true),
        Operator::LessOrEqual => greater(JUMP_IF_GREATER, false),
        Operator::Less => greater(JUMP_IF_GREATER_OR_EQUAL, false),
        Operator::MaskedEqual { mask } => {
            let (mask_low, mask_high) = (mask as u32, (mask >> 32) as u32);
            vec![
                load_high,
                (AND, mask_high, Next, Next),
                (JUMP_IF_EQUAL, high & mask_high, Next, Fails),
                load_low,
                (AND, mask_low, Next, Next),
                (JUMP_IF_EQUAL, low & mask_low, Holds, Fails),
            ]
        }
    }
}
