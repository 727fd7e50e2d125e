//! The seccomp filters of a container: those that the host has compiled, or Docker's default profile, compiled for the
//! container's capabilities.
//!
//! Calls of another architecture kill the process. x32 calls have a bit that no rule has, so they fail with EPERM.

mod profile;

use std::collections::BTreeMap;
use std::io;

use anyhow::{Context, Result};
use nix::errno::Errno;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, sock_filter,
};

use super::capabilities::Capabilities;
use super::spec::SeccompSpec;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Compiled filters, which may be installed in any order.
#[derive(Debug)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// The filters of a process with these capabilities.
    pub fn new(spec: &SeccompSpec, capabilities: Capabilities) -> Result<Self> {
        match spec {
            SeccompSpec::Unconfined => Ok(Self::none()),
            SeccompSpec::Default => Self::default_profile(capabilities),
            SeccompSpec::Programs(programs) => {
                let program = |program: &Vec<u64>| program.iter().copied().map(instruction).collect();
                Ok(Self(programs.iter().map(program).collect()))
            }
        }
    }

    /// No filter.
    pub fn none() -> Self {
        Self(Vec::new())
    }

    /// Compiles the default profile for a process with these capabilities.
    pub fn default_profile(capabilities: Capabilities) -> Result<Self> {
        let mut programs = vec![compile(
            allowed(capabilities)?,
            SeccompAction::Errno(libc::EPERM as u32),
            SeccompAction::Allow,
        )?];
        if !capabilities.has("CAP_SYS_ADMIN") {
            // The flags of clone3 are in memory, where a filter cannot look. "No such call" makes libraries use clone
            // instead. A filter has only one action besides its default, so this takes a second filter; the stricter
            // result of the two wins.
            let clone3 = Rules::from([(libc::SYS_clone3, Vec::new())]);
            programs.push(compile(
                clone3,
                SeccompAction::Allow,
                SeccompAction::Errno(libc::ENOSYS as u32),
            )?);
        }
        Ok(Self(programs))
    }

    /// Installs the filters for the calling thread, which needs CAP_SYS_ADMIN or no_new_privs (seccomp(2)).
    pub fn install(&self) -> io::Result<()> {
        for program in &self.0 {
            let description = libc::sock_fprog {
                len: u16::try_from(program.len()).map_err(io::Error::other)?,
                filter: program.as_ptr().cast_mut().cast(),
            };
            // SAFETY: the description points to a program of the length it states, with the layout of sock_filter; both
            // outlive the call, which only reads them.
            Errno::result(unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const description,
                )
            })?;
        }
        Ok(())
    }
}

/// An instruction from its little-endian form.
fn instruction(number: u64) -> sock_filter {
    let [code_low, code_high, jt, jf, rest @ ..] = number.to_le_bytes();
    sock_filter {
        code: u16::from_le_bytes([code_low, code_high]),
        jt,
        jf,
        k: u32::from_le_bytes(rest),
    }
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram> {
    let filter =
        SeccompFilter::new(rules, otherwise, matched, TargetArch::x86_64).context("cannot build the seccomp filter")?;
    BpfProgram::try_from(filter).context("cannot compile the seccomp filter")
}

/// The rules of the allow list. An empty list of rules allows a call with any arguments.
fn allowed(capabilities: Capabilities) -> Result<Rules> {
    let mut rules: Rules = profile::ALWAYS.iter().map(|&call| (call, Vec::new())).collect();
    for (capability, calls) in profile::WITH_CAPABILITY {
        if capabilities.has(capability) {
            rules.extend(calls.iter().map(|&call| (call, Vec::new())));
        }
    }
    if !capabilities.has("CAP_SYS_ADMIN") {
        let no_namespace = SeccompCmpOp::MaskedEq(profile::NAMESPACE_FLAGS);
        rules.insert(libc::SYS_clone, vec![rule([(no_namespace, 0)])?]);
        rules.insert(libc::SYS_clone3, Vec::new());
    }
    let families: Result<_> = profile::SOCKET_FAMILIES
        .iter()
        .map(|&(first, last)| rule([(SeccompCmpOp::Ge, first), (SeccompCmpOp::Le, last)]))
        .collect();
    rules.insert(libc::SYS_socket, families?);
    let personalities: Result<_> = profile::PERSONALITIES
        .iter()
        .map(|&value| rule([(SeccompCmpOp::Eq, value)]))
        .collect();
    rules.insert(libc::SYS_personality, personalities?);
    Ok(rules)
}

/// A rule whose conditions must all hold for the first argument. The calls it is used for take an int or use only the
/// low half, so only that is compared: a value cannot get past the filter in the high half.
fn rule<const N: usize>(conditions: [(SeccompCmpOp, u64); N]) -> Result<SeccompRule> {
    let conditions: Result<Vec<_>, _> = conditions
        .into_iter()
        .map(|(operator, value)| SeccompCondition::new(0, SeccompCmpArgLen::Dword, operator, value))
        .collect();
    SeccompRule::new(conditions.context("cannot build a seccomp condition")?).context("cannot build a seccomp rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const I386: u32 = 0x4000_0003;
    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    /// The kernel's decision: all filters run, and the most severe action wins.
    fn answer(filters: &Filters, arch: u32, call: i64, argument: u64) -> u32 {
        let mut data = [0_u32; 16];
        data[0] = u32::try_from(call).unwrap();
        data[1] = arch;
        data[4] = argument as u32;
        data[5] = (argument >> 32) as u32;
        let severity = |answer: u32| (answer & libc::SECCOMP_RET_ACTION_FULL) as i32;
        let answers = filters.0.iter().map(|program| run(program, &data));
        answers.min_by_key(|&answer| severity(answer)).unwrap()
    }

    fn run(program: &BpfProgram, data: &[u32; 16]) -> u32 {
        let (mut accumulator, mut next) = (0_u32, 0_usize);
        loop {
            let instruction = &program[next];
            next += 1;
            let jump = |condition| usize::from(if condition { instruction.jt } else { instruction.jf });
            match instruction.code {
                0x20 => accumulator = data[instruction.k as usize / 4],
                0x54 => accumulator &= instruction.k,
                0x05 => next += instruction.k as usize,
                0x15 => next += jump(accumulator == instruction.k),
                0x25 => next += jump(accumulator > instruction.k),
                0x35 => next += jump(accumulator >= instruction.k),
                0x06 => return instruction.k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn filters(capabilities: &[&str]) -> Filters {
        Filters::default_profile(Capabilities::parse(capabilities.iter().copied()).unwrap()).unwrap()
    }

    #[test]
    fn ordinary_calls_are_allowed_and_others_fail_with_eperm() {
        let filters = filters(&[]);
        for call in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_openat,
            libc::SYS_futex,
            libc::SYS_rseq,
            // Without this call no container starts: the agent's priority is reset when the
            // filters are already in force.
            libc::SYS_setpriority,
        ] {
            assert_eq!(answer(&filters, X86_64, call, 0), ALLOW, "{call}");
        }
        for call in [
            libc::SYS_mount,
            libc::SYS_bpf,
            libc::SYS_reboot,
            libc::SYS_io_uring_setup,
            libc::SYS_keyctl,
        ] {
            assert_eq!(answer(&filters, X86_64, call, 0), EPERM, "{call}");
        }
    }

    #[test]
    fn a_capability_allows_its_system_calls() {
        assert_eq!(answer(&filters(&["CAP_SYS_ADMIN"]), X86_64, libc::SYS_mount, 0), ALLOW);
        assert_eq!(
            answer(&filters(&["CAP_SYS_CHROOT"]), X86_64, libc::SYS_chroot, 0),
            ALLOW
        );
        assert_eq!(answer(&filters(&["CAP_SYS_CHROOT"]), X86_64, libc::SYS_mount, 0), EPERM);
    }

    #[test]
    fn clone_may_create_processes_but_not_namespaces() {
        let none = filters(&[]);
        let flags = |flags: i32| u64::from(flags as u32);
        assert_eq!(answer(&none, X86_64, libc::SYS_clone, flags(libc::SIGCHLD)), ALLOW);
        assert_eq!(
            answer(
                &none,
                X86_64,
                libc::SYS_clone,
                flags(libc::CLONE_VM | libc::CLONE_THREAD)
            ),
            ALLOW
        );
        for namespace in [
            libc::CLONE_NEWUSER,
            libc::CLONE_NEWNS,
            libc::CLONE_NEWPID,
            libc::CLONE_NEWCGROUP,
        ] {
            assert_eq!(
                answer(&none, X86_64, libc::SYS_clone, flags(namespace | libc::SIGCHLD)),
                EPERM
            );
        }
        assert_eq!(answer(&none, X86_64, libc::SYS_clone3, 0), ENOSYS);
        let admin = filters(&["CAP_SYS_ADMIN"]);
        assert_eq!(
            answer(&admin, X86_64, libc::SYS_clone, flags(libc::CLONE_NEWUSER)),
            ALLOW
        );
        assert_eq!(answer(&admin, X86_64, libc::SYS_clone3, 0), ALLOW);
    }

    #[test]
    fn vsock_and_alg_sockets_are_refused_even_with_a_high_half() {
        let filters = filters(&[]);
        for family in [
            libc::AF_UNIX,
            libc::AF_INET,
            libc::AF_INET6,
            libc::AF_NETLINK,
            libc::AF_PACKET,
        ] {
            assert_eq!(
                answer(&filters, X86_64, libc::SYS_socket, family as u64),
                ALLOW,
                "{family}"
            );
        }
        for family in [libc::AF_VSOCK, libc::AF_ALG, 12, 46] {
            assert_eq!(
                answer(&filters, X86_64, libc::SYS_socket, family as u64),
                EPERM,
                "{family}"
            );
            assert_eq!(
                answer(&filters, X86_64, libc::SYS_socket, family as u64 | 1 << 32),
                EPERM,
                "{family}"
            );
        }
    }

    #[test]
    fn personality_takes_only_known_values() {
        let filters = filters(&[]);
        assert_eq!(answer(&filters, X86_64, libc::SYS_personality, 0xffff_ffff), ALLOW);
        assert_eq!(answer(&filters, X86_64, libc::SYS_personality, 0x004_0000), EPERM);
    }

    #[test]
    fn other_architectures_are_refused() {
        let filters = filters(&["CAP_SYS_ADMIN"]);
        assert_eq!(
            answer(&filters, I386, libc::SYS_read, 0),
            libc::SECCOMP_RET_KILL_PROCESS
        );
        let x32 = 0x4000_0000;
        assert_eq!(answer(&filters, X86_64, x32 | libc::SYS_read, 0), EPERM);
    }

    #[test]
    fn programs_of_the_host_are_used_as_they_are() {
        let bytes = |code: u16, jt: u8, jf: u8, k: u32| {
            let [k0, k1, k2, k3] = k.to_le_bytes();
            let [c0, c1] = code.to_le_bytes();
            u64::from_le_bytes([c0, c1, jt, jf, k0, k1, k2, k3])
        };
        let program = vec![
            bytes(0x20, 0, 0, 0),
            bytes(0x15, 0, 1, u32::try_from(libc::SYS_mkdir).unwrap()),
            bytes(0x06, 0, 0, EPERM),
            bytes(0x06, 0, 0, ALLOW),
        ];
        let spec = SeccompSpec::Programs(vec![program]);
        let filters = Filters::new(&spec, Capabilities::default()).unwrap();
        assert_eq!(answer(&filters, X86_64, libc::SYS_mkdir, 0), EPERM);
        assert_eq!(answer(&filters, X86_64, libc::SYS_rmdir, 0), ALLOW);
        let unconfined = Filters::new(&SeccompSpec::Unconfined, Capabilities::default()).unwrap();
        assert!(unconfined.0.is_empty());
    }

    #[test]
    fn the_program_fits_the_kernels_limit() {
        let all = [
            "CAP_SYS_ADMIN",
            "CAP_SYS_NICE",
            "CAP_SYS_PTRACE",
            "CAP_BPF",
            "CAP_SYSLOG",
        ];
        for program in filters(&all).0.iter().chain(&filters(&[]).0) {
            assert!(program.len() < 4096, "{}", program.len());
        }
    }
}
