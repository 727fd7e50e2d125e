//! Which system calls each kind of thread may make. Anything else ends the process.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::error::JailError;
use crate::report::report;

/// The role of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Waits for the VM to end and tears it down.
    Main,
    /// Runs a virtual CPU.
    Vcpu,
    /// Serves a disk.
    Blk,
    /// Serves the network.
    Net,
    /// Serves sockets.
    Vsock,
    /// Serves directories of the host.
    Fs,
    /// Serves random numbers.
    Rng,
    /// Writes the console's output.
    Console,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Vcpu => "vcpu",
            Self::Blk => "blk",
            Self::Net => "net",
            Self::Vsock => "vsock",
            Self::Fs => "fs",
            Self::Rng => "rng",
            Self::Console => "console",
        }
    }

    /// System calls allowed in addition to [`COMMON`].
    fn system_calls(self) -> &'static [i64] {
        match self {
            Self::Main => &[libc::SYS_tgkill, libc::SYS_getpid],
            Self::Vcpu => &[],
            Self::Blk => &[
                libc::SYS_epoll_wait,
                libc::SYS_epoll_pwait,
                libc::SYS_preadv,
                libc::SYS_pwritev,
                libc::SYS_fallocate,
                libc::SYS_fdatasync,
            ],
            Self::Net => &[
                libc::SYS_epoll_wait,
                libc::SYS_epoll_pwait,
                libc::SYS_readv,
                libc::SYS_writev,
            ],
            Self::Vsock => &[
                libc::SYS_epoll_wait,
                libc::SYS_epoll_pwait,
                libc::SYS_epoll_ctl,
                libc::SYS_readv,
                libc::SYS_sendmsg,
                libc::SYS_sendto,
                libc::SYS_recvmsg,
                libc::SYS_accept4,
                libc::SYS_shutdown,
            ],
            // Files belong to the file server; this thread has the socket to it, and reads files that the server passes.
            Self::Fs => &[
                libc::SYS_epoll_wait,
                libc::SYS_epoll_pwait,
                libc::SYS_readv,
                libc::SYS_sendmsg,
                libc::SYS_recvmsg,
                libc::SYS_preadv2,
                libc::SYS_statx,
            ],
            Self::Rng => &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_getrandom],
            Self::Console => &[],
        }
    }

    /// The commands of fcntl(2) allowed. None of them locks a file: the file server counts the guest's locks, and passes
    /// open files to this process.
    fn fcntl_commands(self) -> &'static [libc::c_int] {
        match self {
            Self::Vsock => &[libc::F_GETFD, libc::F_GETFL, libc::F_SETFL],
            // In builds with debug assertions, the standard library checks a descriptor before it closes it.
            Self::Fs => &[libc::F_GETFD],
            _ => &[],
        }
    }

    /// The ioctls allowed.
    fn ioctls(self) -> &'static [u64] {
        const KVM_RUN: u64 = 0xae80;
        const KVM_GET_REGS: u64 = 0x8090_ae81;
        const KVM_SET_GSI_ROUTING: u64 = 0x4008_ae6a;
        const TUNSETOFFLOAD: u64 = 0x4004_54d0;
        match self {
            // The last one is for the I/O APIC, whose registers a vCPU writes.
            Self::Vcpu => &[KVM_RUN, KVM_GET_REGS, KVM_SET_GSI_ROUTING],
            Self::Net => &[TUNSETOFFLOAD],
            _ => &[],
        }
    }
}

/// The system calls that every thread needs: for eventfds, locks, memory, time, exiting, and reporting to a reader that
/// may not read ([`crate::report`]).
const COMMON: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_poll,
    libc::SYS_close,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

fn condition(
    argument: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(argument, length, operator, value)?])
}

fn build(role: Role) -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for call in COMMON.iter().chain(role.system_calls()) {
        rules.insert(*call, Vec::new());
    }
    // Memory may be allocated, but never made executable.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![condition(2, Dword, SeccompCmpOp::MaskedEq(executable), 0)?]);
    }
    // The allocator returns memory, and threads return their stacks.
    let advice = [libc::MADV_DONTNEED, libc::MADV_FREE].map(|advice| u64::from(advice.cast_unsigned()));
    let advice = advice
        .into_iter()
        .map(|advice| condition(2, Dword, SeccompCmpOp::Eq, advice));
    rules.insert(libc::SYS_madvise, advice.collect::<Result<_, _>>()?);
    if role == Role::Vsock {
        let unix = u64::from(libc::AF_UNIX.cast_unsigned());
        rules.insert(libc::SYS_socketpair, vec![condition(0, Dword, SeccompCmpOp::Eq, unix)?]);
        let (level, name) = (libc::SOL_SOCKET, libc::SO_SNDBUF);
        let size_of_buffer = SeccompRule::new(vec![
            SeccompCondition::new(1, Dword, SeccompCmpOp::Eq, u64::from(level.cast_unsigned()))?,
            SeccompCondition::new(2, Dword, SeccompCmpOp::Eq, u64::from(name.cast_unsigned()))?,
        ])?;
        rules.insert(libc::SYS_setsockopt, vec![size_of_buffer]);
    }
    let commands = role.fcntl_commands().iter();
    let commands = commands.map(|command| condition(1, Dword, SeccompCmpOp::Eq, u64::from(command.cast_unsigned())));
    let commands: Vec<SeccompRule> = commands.collect::<Result<_, _>>()?;
    if !commands.is_empty() {
        rules.insert(libc::SYS_fcntl, commands);
    }
    let ioctls = role
        .ioctls()
        .iter()
        .map(|request| condition(1, Qword, SeccompCmpOp::Eq, *request));
    let ioctls: Vec<SeccompRule> = ioctls.collect::<Result<_, _>>()?;
    if !ioctls.is_empty() {
        rules.insert(libc::SYS_ioctl, ioctls);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

/// The system call filter of a thread, which the thread itself installs.
#[derive(Debug, Clone)]
pub struct ThreadFilter {
    role: Role,
    /// `None` if the thread is not confined.
    program: Option<Arc<BpfProgram>>,
}

impl ThreadFilter {
    /// Builds the filter of a thread; it filters nothing unless `confined`.
    pub fn new(role: Role, confined: bool) -> Result<Self, JailError> {
        let program = if confined {
            Some(build(role).map_err(|error| JailError::Filter(role.name(), error))?)
        } else {
            None
        };
        Ok(Self {
            role,
            program: program.map(Arc::new),
        })
    }

    /// Installs the filter for the calling thread, permanently.
    pub fn install(&self) -> Result<(), JailError> {
        let Some(program) = &self.program else { return Ok(()) };
        seccompiler::apply_filter(program).map_err(|error| JailError::Step {
            what: "install a system call filter (CONFIG_SECCOMP_FILTER is needed)",
            source: io::Error::other(error.to_string()),
        })
    }

    /// Installs the filter in a thread that cannot report an error: without it, neither the thread nor
    /// the process may continue.
    pub fn install_or_abort(&self) {
        if let Err(error) = self.install() {
            report(format_args!("{} thread: {error}", self.role.name()));
            std::process::abort();
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::FromRawFd;

    use super::*;

    pub(crate) const ROLES: [Role; 8] = [
        Role::Main,
        Role::Vcpu,
        Role::Blk,
        Role::Net,
        Role::Vsock,
        Role::Fs,
        Role::Rng,
        Role::Console,
    ];

    /// Runs `prepare` and then, under the role's filter, `act` in a child process; returns the
    /// signal that ended it, or 0.
    pub(crate) fn signal_of(role: Role, prepare: fn(), act: fn()) -> i32 {
        let filter = ThreadFilter::new(role, true).unwrap();
        // SAFETY: the child only makes system calls, and exits without running any of the parent's code.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                prepare();
                if filter.install().is_err() {
                    libc::_exit(1);
                }
                act();
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: waits for our child and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        if libc::WIFSIGNALED(status) {
            return libc::WTERMSIG(status);
        }
        assert_eq!(libc::WEXITSTATUS(status), 0, "the filter could not be installed");
        0
    }

    fn nothing() {}

    fn open_file() {
        // SAFETY: a system call with constant arguments.
        unsafe { libc::open(c"/etc/passwd".as_ptr(), 0) };
    }

    fn make_socket() {
        // SAFETY: as above.
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0) };
    }

    fn start_program() {
        // SAFETY: as above.
        unsafe { libc::execv(c"/bin/true".as_ptr(), [std::ptr::null()].as_ptr()) };
    }

    fn run_vcpu() {
        // SAFETY: fails with EBADF.
        unsafe { libc::ioctl(-1, 0xae80, 0) };
    }

    fn create_vm() {
        // SAFETY: as above.
        unsafe { libc::ioctl(-1, 0xae01, 0) };
    }

    #[test]
    fn no_thread_may_open_a_file_make_a_socket_or_start_a_program() {
        for role in ROLES {
            for act in [open_file as fn(), make_socket, start_program] {
                assert_eq!(signal_of(role, nothing, act), libc::SIGSYS, "{role:?}");
            }
        }
    }

    #[test]
    fn memory_may_be_mapped_but_not_be_made_executable() {
        fn map(protection: libc::c_int) {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: a new mapping, which no other code uses.
            unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
        }
        for role in ROLES {
            assert_eq!(
                signal_of(role, nothing, || map(libc::PROT_READ | libc::PROT_WRITE)),
                0,
                "{role:?}"
            );
            assert_eq!(
                signal_of(role, nothing, || map(libc::PROT_READ | libc::PROT_EXEC)),
                libc::SIGSYS,
                "{role:?}"
            );
        }
    }

    #[test]
    fn only_the_send_buffer_socket_option_is_allowed() {
        fn set(option: libc::c_int) {
            // SAFETY: fails with EBADF.
            unsafe { libc::setsockopt(-1, libc::SOL_SOCKET, option, (&raw const option).cast(), 4) };
        }
        assert_eq!(signal_of(Role::Vsock, nothing, || set(libc::SO_SNDBUF)), 0);
        assert_eq!(
            signal_of(Role::Vsock, nothing, || set(libc::SO_ATTACH_FILTER)),
            libc::SIGSYS
        );
        assert_eq!(signal_of(Role::Net, nothing, || set(libc::SO_SNDBUF)), libc::SIGSYS);
    }

    #[test]
    fn no_thread_may_lock_a_file_and_sockets_get_their_flags() {
        fn command(command: libc::c_int) {
            // SAFETY: fails with EBADF.
            unsafe { libc::fcntl(-1, command, 0) };
        }
        for role in ROLES {
            for act in [|| command(libc::F_SETLK), || command(libc::F_OFD_SETLK)] {
                assert_eq!(signal_of(role, nothing, act), libc::SIGSYS, "{role:?}");
            }
        }
        for act in [|| command(libc::F_GETFL), || command(libc::F_SETFL)] {
            assert_eq!(signal_of(Role::Vsock, nothing, act), 0);
        }
    }

    #[test]
    fn the_file_system_device_uses_its_socket_and_the_files_that_it_gets_and_opens_none() {
        fn exchange() {
            let mut bytes = [0u8; 1];
            let iovec = libc::iovec {
                iov_base: (&raw mut bytes).cast(),
                iov_len: 1,
            };
            // SAFETY: fails with EBADF; the pointers are those of locals.
            unsafe {
                libc::sendmsg(-1, &std::mem::zeroed(), 0);
                libc::readv(-1, &raw const iovec, 1);
                libc::read(-1, (&raw mut bytes).cast(), 1);
                libc::recvmsg(-1, &mut std::mem::zeroed(), 0);
                libc::preadv2(-1, &raw const iovec, 1, 0, libc::RWF_NOWAIT);
                libc::syscall(libc::SYS_statx, -1, c"".as_ptr(), libc::AT_EMPTY_PATH, 0, 0);
            }
            // SAFETY: in the child, nothing else uses standard input.
            drop(unsafe { std::fs::File::from_raw_fd(0) });
        }
        fn write_file() {
            let iovec = libc::iovec {
                iov_base: std::ptr::null_mut(),
                iov_len: 0,
            };
            // SAFETY: as above.
            unsafe { libc::pwritev(-1, &raw const iovec, 1, 0) };
        }
        fn change_length() {
            // SAFETY: as above.
            unsafe { libc::ftruncate(-1, 0) };
        }
        fn accept_connection() {
            // SAFETY: as above.
            unsafe { libc::accept4(-1, std::ptr::null_mut(), std::ptr::null_mut(), 0) };
        }
        fn make_pair() {
            let mut pair = [0; 2];
            // SAFETY: writes two descriptors.
            unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) };
        }
        assert_eq!(signal_of(Role::Fs, nothing, exchange), 0);
        for act in [make_pair as fn(), write_file, change_length, accept_connection] {
            assert_eq!(signal_of(Role::Fs, nothing, act), libc::SIGSYS);
        }
    }

    #[test]
    fn only_the_ioctls_of_the_role_are_allowed() {
        assert_eq!(signal_of(Role::Vcpu, nothing, run_vcpu), 0);
        assert_eq!(signal_of(Role::Vcpu, nothing, create_vm), libc::SIGSYS);
        assert_eq!(signal_of(Role::Blk, nothing, run_vcpu), libc::SIGSYS);
    }
}
