//! Profiles, and the results of their programs.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

/// The kernel's action for a system call, given by its name.
fn answer(program: &[Instruction], name: &str, arguments: [u64; 6]) -> u32 {
    run(program, X86_64, system_calls::number(name).unwrap(), arguments)
}

fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let halves = arguments.iter().flat_map(|value| [*value as u32, (value >> 32) as u32]);
    let data: Vec<u32> = [number, architecture, 0, 0].into_iter().chain(halves).collect();
    let (mut accumulator, mut next) = (0, 0);
    loop {
        let Instruction { code, jt, jf, k } = program[next];
        next += 1;
        let jump = |condition| usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = data[k as usize / 4],
            0x54 => accumulator &= k,
            0x05 => next += k as usize,
            0x15 => next += jump(accumulator == k),
            0x25 => next += jump(accumulator > k),
            0x35 => next += jump(accumulator >= k),
            0x06 => return k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn compiled(profile: &Value) -> Vec<Instruction> {
    compile(profile.to_string().as_bytes(), &[]).unwrap()
}

fn refused(profile: &Value) -> String {
    compile(profile.to_string().as_bytes(), &[]).unwrap_err().to_string()
}

#[test]
fn listed_calls_have_their_action_and_all_others_the_default() {
    let program = compiled(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
        "syscalls": [
            { "names": ["read", "write", "of_the_future"], "action": "SCMP_ACT_ALLOW", "args": null },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38 },
            { "name": "reboot", "action": "SCMP_ACT_KILL_PROCESS" },
        ],
    }));
    for (name, expected) in [
        ("read", ALLOW),
        ("write", ALLOW),
        ("clone3", ENOSYS),
        ("reboot", KILL_PROCESS),
        ("mkdir", EPERM),
    ] {
        assert_eq!(answer(&program, name, [0; 6]), expected, "{name}");
    }
    assert_eq!(run(&program, I386, 0, [0; 6]), KILL_PROCESS);
    let x32 = 0x4000_0000;
    assert_eq!(run(&program, X86_64, x32, [0; 6]), EPERM);
}

#[test]
fn every_action_has_the_kernels_number() {
    for (action, expected) in [
        ("SCMP_ACT_KILL", 0),
        ("SCMP_ACT_KILL_THREAD", 0),
        ("SCMP_ACT_KILL_PROCESS", KILL_PROCESS),
        ("SCMP_ACT_TRAP", 0x0003_0000),
        ("SCMP_ACT_ERRNO", EPERM),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_ALLOW", ALLOW),
    ] {
        let program = compiled(&json!({ "defaultAction": action }));
        assert_eq!(answer(&program, "read", [0; 6]), expected, "{action}");
    }
    let program = compiled(&json!({ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38 }));
    assert_eq!(answer(&program, "read", [0; 6]), ENOSYS);
}

#[test]
fn conditions_precede_rules_without_any() {
    let program = compiled(&json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            { "names": ["socket"], "action": "SCMP_ACT_ERRNO" },
            {
                "names": ["socket"], "action": "SCMP_ACT_ALLOW",
                "args": [
                    { "index": 0, "value": 1, "op": "SCMP_CMP_EQ" },
                    { "index": 1, "value": 5, "op": "SCMP_CMP_NE" },
                ],
            },
        ],
    }));
    assert_eq!(answer(&program, "socket", [1, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(answer(&program, "socket", [1, 5, 0, 0, 0, 0]), EPERM);
    assert_eq!(answer(&program, "socket", [1 << 32 | 1, 0, 0, 0, 0, 0]), EPERM);
}

#[test]
fn several_conditions_for_one_argument_are_alternatives() {
    let is = |value: u64| json!({ "index": 0, "value": value, "op": "SCMP_CMP_EQ" });
    let program = compiled(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{ "names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [is(0), is(8)] }],
    }));
    for (value, expected) in [(0, ALLOW), (8, ALLOW), (1, EPERM)] {
        assert_eq!(answer(&program, "personality", [value, 0, 0, 0, 0, 0]), expected);
    }
}

#[test]
fn rules_can_depend_on_capabilities_and_the_architecture() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW", "excludes": { "caps": ["CAP_SYS_ADMIN"] } },
            { "names": ["modify_ldt"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["amd64", "x32"] } },
            { "names": ["mkdir"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["arm64"] } },
            { "names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": { "minKernel": "4.8" } },
            { "names": ["rmdir"], "action": "SCMP_ACT_ALLOW", "includes": {}, "excludes": {} },
        ],
    })
    .to_string();
    let allowed = |capabilities: &[&str]| {
        let program = compile(profile.as_bytes(), capabilities).unwrap();
        ["mount", "clone", "modify_ldt", "mkdir", "ptrace", "rmdir"].map(|name| answer(&program, name, [0; 6]) == ALLOW)
    };
    assert_eq!(allowed(&[]), [false, true, true, false, true, true]);
    assert_eq!(allowed(&["CAP_SYS_ADMIN"]), [true, false, true, false, true, true]);
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let with_rule = |rule: Value| json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
    let with_argument =
        |argument: Value| with_rule(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [argument] }));
    for (profile, expected) in [
        (json!({ "defaultAction": "ALLOW" }), "unknown action \"ALLOW\""),
        (
            json!({ "syscalls": [] }),
            "missing field `defaultAction` at line 1 column 15",
        ),
        (
            with_rule(json!({ "names": ["read"], "action": "SCMP_ACT_NOTIFY" })),
            "SCMP_ACT_NOTIFY is not supported, because there is no process to notify",
        ),
        (
            json!({ "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW"] }),
            "unknown flag \"SECCOMP_FILTER_FLAG_NEW\"",
        ),
        (
            with_argument(json!({ "index": 0, "value": 1, "op": "==" })),
            "unknown operator \"==\"",
        ),
        (
            with_argument(json!({ "index": 6, "value": 1, "op": "SCMP_CMP_EQ" })),
            "a system call has no argument 6; use 0 to 5",
        ),
    ] {
        assert_eq!(refused(&profile), expected);
    }
    let rules = vec![
        json!({
            "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }],
        });
        1000
    ];
    assert_eq!(
        refused(&json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules })),
        "the compiled program has 5008 instructions; Linux allows 4096"
    );
    let long = vec![b' '; MAX_PROFILE_BYTES + 1];
    assert_eq!(
        compile(&long, &[]).unwrap_err().to_string(),
        "longer than 1048576 bytes"
    );
}

#[test]
fn an_instruction_has_the_kernels_layout() {
    let instruction = Instruction {
        code: 0x15,
        jt: 1,
        jf: 2,
        k: 0x0403_0201,
    };
    assert_eq!(instruction.to_bytes(), [0x15, 0, 1, 2, 1, 2, 3, 4]);
}

/// Values around the boundary between the two halves of an argument.
fn value() -> impl Strategy<Value = u64> {
    let half = prop_oneof![Just(0_u32), Just(1), Just(7), Just(u32::MAX)];
    (half.clone(), half).prop_map(|(high, low)| u64::from(high) << 32 | u64::from(low))
}

fn argument() -> impl Strategy<Value = (u32, &'static str, u64, u64)> {
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    (0_u32..6, proptest::sample::select(operators.to_vec()), value(), value())
}

fn holds((index, operator, one, two): (u32, &str, u64, u64), arguments: [u64; 6]) -> bool {
    let found = arguments[index as usize];
    match operator {
        "NE" => found != one,
        "LT" => found < one,
        "LE" => found <= one,
        "EQ" => found == one,
        "GE" => found >= one,
        "GT" => found > one,
        _ => found & one == two & one,
    }
}

proptest! {
    #[test]
    fn programs_compare_arguments_as_64_bit_numbers(
        conditions in prop::collection::vec(argument(), 1..6),
        arguments in prop::array::uniform6(value()),
    ) {
        let args: Vec<Value> = conditions
            .iter()
            .map(|(index, operator, value, value_two)| json!({
                "index": index, "op": format!("SCMP_CMP_{operator}"), "value": value, "valueTwo": value_two,
            }))
            .collect();
        let program = compiled(&json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "syscalls": [{ "names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": args }],
        }));
        let mut seen = std::collections::HashSet::new();
        let is_repeated = conditions.iter().any(|(index, ..)| !seen.insert(index));
        let mut conditions = conditions.iter().map(|condition| holds(*condition, arguments));
        let is_allowed = if is_repeated { conditions.any(|holds| holds) } else { conditions.all(|holds| holds) };
        prop_assert_eq!(answer(&program, "ioctl", arguments), if is_allowed { ALLOW } else { EPERM });
    }

    #[test]
    fn any_text_is_refused_or_yields_a_program_that_ends(text in ".{0,80}") {
        if let Ok(program) = compile(text.as_bytes(), &[]) {
            run(&program, X86_64, 0, [0; 6]);
        }
    }
}
