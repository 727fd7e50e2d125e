//! What processes that this program starts inherit: the standard streams, what they are given by number, and nothing else.
//!
//! Rust opens every file for this process alone, but the caller of this program may have left files open for all that follows: those
//! would reach the supervisor of a Pod, and its virtual machine monitor, which a guest may take over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Descriptors that are looked for one by one where the kernel cannot close a range (before Linux 5.11).
const SEARCHED: RawFd = 1 << 16;

/// A command that passes on no descriptors but the standard streams.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    pass_on(&mut command, &[]);
    command
}

/// Has `command` pass on the standard streams and `inherited`, and no other descriptor. They must be open until it has started.
pub fn pass_on(command: &mut Command, inherited: &[RawFd]) {
    let inherited = inherited.to_vec();
    // SAFETY: between fork and exec the closure only calls close_range(2) and fcntl(2), which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            close_on_exec(3, RawFd::MAX);
            for fd in &inherited {
                if libc::fcntl(*fd, libc::F_SETFD, 0) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Has the descriptors from `first` to `last` closed by the next exec. Closing them now would take the one from Rust by which the
/// child says why exec failed.
fn close_on_exec(first: RawFd, last: RawFd) {
    // SAFETY: both calls take integers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            close_on_exec_one_by_one(first, last.min(SEARCHED));
        }
    }
}

fn close_on_exec_one_by_one(first: RawFd, last: RawFd) {
    for fd in first..=last {
        // SAFETY: fails where there is no descriptor.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    /// A descriptor as a careless caller leaves it.
    fn leaked() -> File {
        let file = tempfile::tempfile().unwrap();
        // SAFETY: fcntl on an open descriptor.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        file
    }

    /// Whether the process that `command` starts, a shell, has the descriptor.
    fn has(mut command: Command, file: &File) -> bool {
        let script = format!("test -e /proc/self/fd/{}", file.as_raw_fd());
        command.args(["-c", &script]).status().unwrap().success()
    }

    #[test]
    fn a_descriptor_that_the_caller_left_open_is_not_passed_on() {
        let file = leaked();
        assert!(has(Command::new("sh"), &file), "it is one that would be passed on");
        assert!(!has(command("sh"), &file));
    }

    #[test]
    fn what_is_named_is_passed_on_though_it_was_not_to_be() {
        let (file, other) = (tempfile::tempfile().unwrap(), leaked());
        let shell = || {
            let mut command = Command::new("sh");
            pass_on(&mut command, &[file.as_raw_fd()]);
            command
        };
        assert!(has(shell(), &file));
        assert!(!has(shell(), &other));
    }

    #[test]
    fn a_program_that_does_not_exist_is_still_reported() {
        let error = command("/no/such/program").spawn().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn without_close_range_descriptors_are_marked_one_by_one() {
        let file = leaked();
        close_on_exec_one_by_one(file.as_raw_fd(), file.as_raw_fd());
        assert!(!has(Command::new("sh"), &file));
    }
}
