//! Starts this program again, directly in the right PID namespace and cgroup: as the helper that becomes a container or
//! joins one, or as the process that holds a shared PID namespace.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use super::spec::{HELPER_ARGUMENT, PAUSE_PROGRAM, TURN_FD};

/// Number of descriptors passed to the helper: stdio, specification, report and, if they are needed, terminal,
/// container and turn.
pub const HELPER_FDS: usize = TURN_FD as usize + 1;

/// Descriptors at or above this number are not overwritten while the helper's descriptors are put in their places.
const FIRST_SAFE_FD: i32 = 16;

/// `CLONE_INTO_CGROUP`, linux/sched.h; the libc crate's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Creates an anonymous memory file with this content, positioned at its start.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"container-spec", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Starts `executable` as a helper in a cgroup (given by its directory), with `fds` as its descriptors 0 to 7.
///
/// Given a pidfd of a container's process (pidfd_open(2)), the helper starts in that process's PID namespace, and joins
/// its other namespaces itself unless it gets `new_mounts`. Without one it gets new mount and PID namespaces. Returns
/// the helper's PID and pidfd.
pub fn start_helper(
    executable: BorrowedFd<'_>,
    container: Option<BorrowedFd<'_>>,
    new_mounts: bool,
    cgroup: BorrowedFd<'_>,
    fds: [Option<BorrowedFd<'_>>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    match container {
        None => {
            let new = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
            clone_helper(executable, new, cgroup, fds)
        }
        Some(container) => {
            let new = if new_mounts { libc::CLONE_NEWNS as u64 } else { 0 };
            in_pid_namespace(container, || clone_helper(executable, new, cgroup, fds))
        }
    }
}

/// Makes children of `start` begin in the PID namespace of a process. The thread itself stays in its own (setns(2)).
fn in_pid_namespace<T>(of: BorrowedFd<'_>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: no pointers; it returns a new descriptor or an error.
    let own = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) })?;
    // SAFETY: the kernel has just created this descriptor for us.
    let own = unsafe { OwnedFd::from_raw_fd(i32::try_from(own).map_err(io::Error::other)?) };
    setns(of, CloneFlags::CLONE_NEWPID)?;
    let started = start();
    // Cannot fail for a process with CAP_SYS_ADMIN. Otherwise every later container would start inside this one.
    if let Err(error) = setns(own, CloneFlags::CLONE_NEWPID) {
        panic!("cannot return to the agent's PID namespace: {error}");
    }
    started
}

fn clone_helper(
    executable: BorrowedFd<'_>,
    namespaces: u64,
    cgroup: BorrowedFd<'_>,
    fds: [Option<BorrowedFd<'_>>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    let command = [c"microkube-agent".to_owned(), CString::new(HELPER_ARGUMENT)?];
    clone_program(executable, &command, namespaces, cgroup, fds)
}

/// Starts `executable` as the first process of a new PID namespace, with /dev/null as its stdio and `report` as its
/// descriptor 3. Returns its PID and pidfd.
pub fn start_pause(
    executable: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
) -> io::Result<(Pid, OwnedFd)> {
    let fds = [Some(null), Some(null), Some(null), Some(report), None, None, None, None];
    let command = [CString::new(PAUSE_PROGRAM)?];
    let new = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
    clone_program(executable, &command, new, cgroup, fds)
}

fn clone_program(
    executable: BorrowedFd<'_>,
    command: &[CString],
    namespaces: u64,
    cgroup: BorrowedFd<'_>,
    fds: [Option<BorrowedFd<'_>>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    // Everything the child needs is prepared here: between clone and execve it may only make system calls.
    let mut kept: [Option<OwnedFd>; HELPER_FDS] = Default::default();
    for (kept, fd) in kept.iter_mut().zip(fds) {
        *kept = fd.map(duplicate_to_safe_fd).transpose()?;
    }
    let numbers = kept.each_ref().map(|fd| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd));
    let args: Vec<_> = command
        .iter()
        .map(|argument| argument.as_ptr())
        .chain([std::ptr::null()])
        .collect();
    let env = [std::ptr::null::<libc::c_char>()];
    let executable = executable.as_raw_fd();

    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which zero means "not used".
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = namespaces | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    clone.pidfd = (&raw mut pidfd) as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    clone.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM the child gets a copy of the memory and returns here as after fork. The agent may have
    // other threads, so until execve the child only makes the system calls below, all on values prepared before; it
    // never returns to the caller, allocates, locks or drops anything.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) };
    if result == 0 {
        // SAFETY: raw system calls with pointers to the arrays above, as argued there; _exit never returns.
        unsafe {
            for (target, number) in (0..).zip(numbers) {
                if number >= 0 && libc::dup2(number, target) < 0 {
                    libc::_exit(125);
                }
            }
            libc::syscall(
                libc::SYS_execveat,
                executable,
                c"".as_ptr(),
                args.as_ptr(),
                env.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
            libc::_exit(126);
        }
    }
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: CLONE_PIDFD stored a descriptor that is ours.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok((Pid::from_raw(i32::try_from(result).map_err(io::Error::other)?), pidfd))
}

fn duplicate_to_safe_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_SAFE_FD))?;
    // SAFETY: fcntl has just created this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends a signal to the process, never to another one that has reused its PID.
pub fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed and means what kill(2) sends.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The same, but an ended process is not an error.
pub fn signal_unless_ended(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    match signal(pidfd, number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}
