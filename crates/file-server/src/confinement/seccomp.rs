//! The system calls that the process may make. Any other ends it.

use std::collections::BTreeMap;

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::error::ConfinementError;

/// Calls that are allowed with all arguments.
const ALLOWED: &[i64] = &[
    // Sockets, and the pipe that tells of the end.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_pipe2,
    // Files.
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_close,
    libc::SYS_statx,
    libc::SYS_fstatfs,
    libc::SYS_pread64,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_copy_file_range,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_syncfs,
    libc::SYS_flock,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_mkdirat,
    libc::SYS_symlinkat,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_setxattr,
    libc::SYS_listxattr,
    libc::SYS_removexattr,
    // The identity of a thread for access to files.
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_umask,
    // Threads, memory, and the end of the process.
    libc::SYS_clone3,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_clock_gettime,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The flags with which glibc and musl start a thread; musl adds the last one, which has no meaning any more.
const THREAD: u64 = (libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SIGHAND
    | libc::CLONE_THREAD
    | libc::CLONE_SYSVSEM
    | libc::CLONE_SETTLS
    | libc::CLONE_PARENT_SETTID
    | libc::CLONE_CHILD_CLEARTID) as u64;
const DETACHED: u64 = libc::CLONE_DETACHED as u64;

fn condition(argument: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, BackendError> {
    let rules = values
        .iter()
        .map(|value| SeccompRule::new(vec![condition(argument, SeccompCmpOp::Eq, *value)?]));
    rules.collect()
}

fn constants(values: &[libc::c_int]) -> Vec<u64> {
    values.iter().map(|value| u64::from(value.cast_unsigned())).collect()
}

fn allow_list() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // Memory may be allocated, but never made executable.
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let not_executable = condition(2, SeccompCmpOp::MaskedEq(executable), 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    rules.insert(libc::SYS_clone, one_of(0, &[THREAD, THREAD | DETACHED])?);
    // A thread's own umask.
    rules.insert(libc::SYS_unshare, one_of(0, &constants(&[libc::CLONE_FS]))?);
    rules.insert(libc::SYS_prctl, one_of(0, &constants(&[libc::PR_SET_NAME]))?);
    let commands = [
        libc::F_GETFD,
        libc::F_GETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_OFD_GETLK,
        libc::F_OFD_SETLK,
        libc::F_OFD_SETLKW,
    ];
    rules.insert(libc::SYS_fcntl, one_of(1, &constants(&commands))?);
    rules.insert(libc::SYS_mknodat, files_without_devices()?);
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?
    .try_into()
}

/// Types of files that mknod(2) may create.
fn files_without_devices() -> Result<Vec<SeccompRule>, BackendError> {
    let mask = SeccompCmpOp::MaskedEq(libc::S_IFMT.into());
    let types = [libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK];
    let rules = types
        .iter()
        .map(|file_type| SeccompRule::new(vec![condition(2, mask.clone(), u64::from(*file_type))?]));
    rules.collect()
}

/// Makes clone3(2) fail as on a kernel without it. Its flags are in memory, where a filter cannot check them; C libraries
/// then use clone(2).
fn no_clone3() -> Result<BpfProgram, BackendError> {
    SeccompFilter::new(
        BTreeMap::from([(libc::SYS_clone3, Vec::new())]),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS.cast_unsigned()),
        TargetArch::x86_64,
    )?
    .try_into()
}

/// Installs both filters, which the threads that are started later inherit. Of two filters, the kernel applies the
/// stricter action (seccomp(2)).
pub(super) fn install() -> Result<(), ConfinementError> {
    for program in [no_clone3(), allow_list()] {
        let program = program.map_err(ConfinementError::Filter)?;
        seccompiler::apply_filter(&program).map_err(ConfinementError::Install)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `act` under the filters in a child process; returns the signal that ended it, or 0.
    fn signal_of(act: fn()) -> i32 {
        // SAFETY: the child installs its filters and makes system calls, and exits without running any of the parent's
        // code.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let is_confined = install().is_ok();
            if is_confined {
                act();
            }
            // SAFETY: as above.
            unsafe { libc::_exit(if is_confined { 0 } else { 1 }) };
        }
        let mut status = 0;
        // SAFETY: waits for our child and writes its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        if libc::WIFSIGNALED(status) {
            return libc::WTERMSIG(status);
        }
        assert_eq!(libc::WEXITSTATUS(status), 0, "the filters could not be installed");
        0
    }

    /// Makes a system call with these arguments.
    fn call(number: libc::c_long, arguments: [i64; 4]) {
        let [a, b, c, d] = arguments;
        // SAFETY: the arguments are constants of the tests: integers that name nothing, or null pointers.
        unsafe { libc::syscall(number, a, b, c, d) };
    }

    #[test]
    fn calls_that_have_nothing_to_do_with_shares_end_the_process() {
        let forbidden: [fn(); 14] = [
            || call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0]),
            || call(libc::SYS_connect, [-1, 0, 0, 0]),
            || call(libc::SYS_execve, [0; 4]),
            || call(libc::SYS_fork, [0; 4]),
            || call(libc::SYS_kill, [0; 4]),
            || call(libc::SYS_ptrace, [0; 4]),
            || call(libc::SYS_mount, [0; 4]),
            || call(libc::SYS_open_tree, [-1, 0, 0, 0]),
            || call(libc::SYS_chdir, [0; 4]),
            || call(libc::SYS_chroot, [0; 4]),
            || call(libc::SYS_setresuid, [0; 4]),
            || call(libc::SYS_open_by_handle_at, [-1, 0, 0, 0]),
            || call(libc::SYS_ioctl, [-1, 0, 0, 0]),
            || call(libc::SYS_io_uring_setup, [0; 4]),
        ];
        for (index, act) in forbidden.into_iter().enumerate() {
            assert_eq!(signal_of(act), libc::SIGSYS, "{index}");
        }
    }

    #[test]
    fn calls_are_allowed_only_with_the_arguments_that_the_server_uses() {
        let forbidden: [fn(); 7] = [
            || call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0]),
            || call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0]),
            || call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0]),
            || call(libc::SYS_fcntl, [-1, libc::F_SETOWN.into(), 0, 0]),
            || call(libc::SYS_mprotect, [0, 0, libc::PROT_EXEC.into(), 0]),
            || call(libc::SYS_mknodat, [-1, 0, (libc::S_IFCHR | 0o666).into(), 0x103]),
            || call(libc::SYS_mknodat, [-1, 0, (libc::S_IFBLK | 0o666).into(), 0x103]),
        ];
        for (index, act) in forbidden.into_iter().enumerate() {
            assert_eq!(signal_of(act), libc::SIGSYS, "{index}");
        }
        let allowed: [fn(); 7] = [
            // Fails before it looks at a message.
            || call(libc::SYS_sendmsg, [-1, 0, 0, 0]),
            || call(libc::SYS_unshare, [libc::CLONE_FS.into(), 0, 0, 0]),
            || call(libc::SYS_fcntl, [-1, libc::F_OFD_SETLK.into(), 0, 0]),
            || call(libc::SYS_mknodat, [-1, 0, (libc::S_IFIFO | 0o666).into(), 0]),
            || call(libc::SYS_openat2, [-1, 0, 0, 0]),
            || call(libc::SYS_setfsuid, [-1, 0, 0, 0]),
            || call(libc::SYS_getdents64, [-1, 0, 0, 0]),
        ];
        for (index, act) in allowed.into_iter().enumerate() {
            assert_eq!(signal_of(act), 0, "{index}");
        }
    }

    #[test]
    fn threads_are_started_without_clone3() {
        fn act() {
            // SAFETY: arguments that the kernel would refuse.
            let result = unsafe { libc::syscall(libc::SYS_clone3, 0, 0) };
            let error = std::io::Error::last_os_error().raw_os_error();
            if result != -1 || error != Some(libc::ENOSYS) {
                // SAFETY: ends the child.
                unsafe { libc::_exit(2) };
            }
        }
        assert_eq!(signal_of(act), 0);
    }
}
