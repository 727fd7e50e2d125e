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

use super::spec::{HELPER_ARGUMENT, PAUSE_PROGRAM, USER_NAMESPACE_FD};

/// Number of descriptors passed to the helper: stdio, specification, report and, if they are needed, terminal,
/// container, turn and user namespace.
pub const HELPER_FDS: usize = USER_NAMESPACE_FD as usize + 1;

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

/// The namespaces in which a helper begins.
#[derive(Debug, Clone, Copy)]
pub enum Namespaces<'f> {
    /// New mount and PID namespaces.
    New,
    /// A new mount namespace; the PID namespace is the agent's.
    NewMounts,
    /// A new mount namespace, and the PID namespace of this process (its pidfd).
    NewMountsIn(BorrowedFd<'f>),
    /// The PID namespace of this process (its pidfd). The helper joins the others itself.
    In(BorrowedFd<'f>),
}

/// Starts `executable` as a helper in a cgroup (given by its directory), with `fds` as its first descriptors. Returns the
/// helper's PID and pidfd.
pub fn start_helper(
    executable: BorrowedFd<'_>,
    namespaces: Namespaces<'_>,
    cgroup: BorrowedFd<'_>,
    fds: [Option<BorrowedFd<'_>>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    let new_mounts = libc::CLONE_NEWNS as u64;
    match namespaces {
        Namespaces::New => clone_helper(executable, new_mounts | libc::CLONE_NEWPID as u64, cgroup, fds),
        Namespaces::NewMounts => clone_helper(executable, new_mounts, cgroup, fds),
        Namespaces::NewMountsIn(process) => {
            in_pid_namespace(process, || clone_helper(executable, new_mounts, cgroup, fds))
        }
        Namespaces::In(process) => in_pid_namespace(process, || clone_helper(executable, 0, cgroup, fds)),
    }
}

/// Continues in a new process with its own mount namespace and, if `new_pids`, its own PID namespace. The process is a
/// sibling of the calling one, which must have a single thread. Returns `None` in the new process, and its PID in the
/// calling one.
pub fn fork_sibling(new_pids: bool) -> io::Result<Option<Pid>> {
    // SAFETY: clone_args is plain data for which zero means "not used".
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = (libc::CLONE_PARENT | libc::CLONE_NEWNS) as u64;
    if new_pids {
        clone.flags |= libc::CLONE_NEWPID as u64;
    }
    // SAFETY: without CLONE_VM the child gets a copy of the memory and returns here as after fork; there is no other
    // thread that could hold a lock.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const clone, size_of::<libc::clone_args>()) };
    match result {
        0 => Ok(None),
        pid if pid > 0 => Ok(Some(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?))),
        _ => Err(io::Error::last_os_error()),
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
/// descriptor 3. With a user namespace, which becomes its descriptor 4, the process starts in the agent's PID namespace.
/// Returns its PID and pidfd.
pub fn start_pause(
    executable: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    null: BorrowedFd<'_>,
    report: BorrowedFd<'_>,
    user_namespace: Option<BorrowedFd<'_>>,
) -> io::Result<(Pid, OwnedFd)> {
    let mut fds = [None; HELPER_FDS];
    for (place, fd) in fds
        .iter_mut()
        .zip([Some(null), Some(null), Some(null), Some(report), user_namespace])
    {
        *place = fd;
    }
    let command = [CString::new(PAUSE_PROGRAM)?];
    let new_pids = match user_namespace {
        Some(_) => 0,
        None => libc::CLONE_NEWPID as u64,
    };
    clone_program(executable, &command, new_pids | libc::CLONE_NEWNS as u64, cgroup, fds)
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
