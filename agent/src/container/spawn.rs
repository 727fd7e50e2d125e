//! Starts the helper that becomes a container, directly in its namespaces and its cgroup.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;

use super::spec::{HELPER_ARGUMENT, REPORT_FD};

/// Number of descriptors that the helper gets: stdio, specification, report.
const HELPER_FDS: usize = REPORT_FD as usize + 1;

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

/// Starts `executable` as a helper in new mount and PID namespaces and in a cgroup (its directory).
///
/// `fds` become descriptors 0 to 4 of the helper. Returns its PID and a descriptor of the process (pidfd_open(2)).
pub fn start_helper(
    executable: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    fds: [BorrowedFd<'_>; HELPER_FDS],
) -> io::Result<(Pid, OwnedFd)> {
    // Everything the child needs is made before: between clone and execve it may only make system calls.
    let [stdin, stdout, stderr, spec, report] = fds.map(out_of_the_way);
    let fds = [stdin?, stdout?, stderr?, spec?, report?];
    let numbers: [i32; HELPER_FDS] = std::array::from_fn(|index| fds.get(index).map_or(-1, AsRawFd::as_raw_fd));
    let argument = std::ffi::CString::new(HELPER_ARGUMENT)?;
    let args = [c"microkube-agent".as_ptr(), argument.as_ptr(), std::ptr::null()];
    let env = [std::ptr::null::<libc::c_char>()];
    let executable = executable.as_raw_fd();

    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data for which zero means "not used".
    let mut clone: libc::clone_args = unsafe { std::mem::zeroed() };
    clone.flags = (libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_PIDFD) as u64 | CLONE_INTO_CGROUP;
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
                if libc::dup2(number, target) < 0 {
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
