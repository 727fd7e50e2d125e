//! Starts the helper that becomes a container or joins one, directly in its PID namespace and its cgroup.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, setns};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use super::spec::{HELPER_ARGUMENT, TURN_FD};

/// Descriptors that the helper gets: stdio, specification, report, and where they are wanted terminal, container and turn.
pub const HELPER_FDS: usize = TURN_FD as usize + 1;

/// Descriptors at or above this number cannot be overwritten while the helper's are put in their places.
const FIRST_SAFE_FD: i32 = 16;

/// `CLONE_INTO_CGROUP`, linux/sched.h; the libc crate's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Anonymous memory with this content, positioned at its start.
pub fn memory_file(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create(c"container-spec", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Starts `executable` as a helper in a cgroup (its directory), with `fds` as its descriptors 0 to 7.
///
/// Without a container's process (pidfd_open(2)) it gets new mount and PID namespaces, otherwise the PID namespace of that
/// process; the helper joins the others by itself. Returns its PID and a descriptor of the process.
pub fn start_helper(
    executable: BorrowedFd<'_>,
    container: Option<BorrowedFd<'_>>,
    cgroup: BorrowedFd<'_>,
    fds: [Option<BorrowedFd<'_>>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    match container {
        None => {
            let new = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
            clone_helper(executable, new, cgroup, fds)
        }
        Some(container) => in_pid_namespace(container, || clone_helper(executable, 0, cgroup, fds)),
    }
}

/// Has children of `start` begin in the PID namespace of a process. The thread itself stays where it is (setns(2)).
fn in_pid_namespace<T>(of: BorrowedFd<'_>, start: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    // SAFETY: no pointers; a new descriptor or an error.
    let own = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, libc::getpid(), 0) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    let own = unsafe { OwnedFd::from_raw_fd(i32::try_from(own).map_err(io::Error::other)?) };
    setns(of, CloneFlags::CLONE_NEWPID)?;
    let started = start();
    // Cannot fail for a process of CAP_SYS_ADMIN. Every container after it would be started inside this one otherwise.
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
    // Everything the child needs is made before: between clone and execve it may only make system calls.
    let mut kept: [Option<OwnedFd>; HELPER_FDS] = Default::default();
    for (kept, fd) in kept.iter_mut().zip(fds) {
        *kept = fd.map(out_of_the_way).transpose()?;
    }
    let numbers = kept.each_ref().map(|fd| fd.as_ref().map_or(-1, AsRawFd::as_raw_fd));
    let argument = std::ffi::CString::new(HELPER_ARGUMENT)?;
    let args = [c"microkube-agent".as_ptr(), argument.as_ptr(), std::ptr::null()];
    let env = [std::ptr::null::<libc::c_char>()];
    let executable = executable.as_raw_fd();

    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which zero means "not used".
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = namespaces | libc::CLONE_PIDFD as u64 | CLONE_INTO_CGROUP;
    clone.pidfd = (&raw mut pidfd) as u64;
    clone.exit_signal = libc::SIGCHLD as u64;
    clone.cgroup = cgroup.as_raw_fd() as u64;
    // SAFETY: without CLONE_VM the child gets a copy of the memory and returns here like fork's. The agent may have other
    // threads, so until execve the child only makes the system calls below, all on values made before; it never
    // returns to the caller, allocates, locks or drops anything.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) };
    if result == 0 {
        // SAFETY: raw system calls with pointers to the arrays above, as argued; _exit never returns.
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

fn out_of_the_way(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let number = fcntl(fd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(FIRST_SAFE_FD))?;
    // SAFETY: fcntl just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Sends a signal to the process, and to no other that may have got its PID since.
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

/// The same, where ended processes are no error.
pub fn signal_unless_ended(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    match signal(pidfd, number) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other,
    }
}
