//! Limits what child processes inherit: the standard streams and the descriptors passed by number.
//!
//! Rust opens every file close-on-exec, but this program's caller may have left descriptors open. Without this module
//! they would reach a Pod's supervisor and its VMM, which a guest may take over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Descriptors that are checked one by one if the kernel cannot close a range (before Linux 5.11).
const SEARCHED: RawFd = 1 << 16;

/// A command that inherits only the standard streams.
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    pass_on(&mut command, &[]);
    command
}

/// Makes `command` inherit only the standard streams and `inherited`. The descriptors must stay open until it has
/// started.
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

/// Marks the descriptors from `first` to `last` close-on-exec. Closing them here would also close the pipe that Rust
/// uses to report a failed exec.
fn close_on_exec(first: RawFd, last: RawFd) {
    // SAFETY: both calls take only integers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, last, libc::CLOSE_RANGE_CLOEXEC) < 0 {
            close_on_exec_one_by_one(first, last.min(SEARCHED));
        }
    }
}

fn close_on_exec_one_by_one(first: RawFd, last: RawFd) {
    for fd in first..=last {
        // SAFETY: takes only integers, and fails if there is no such descriptor.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsRawFd;

    use super::*;

    /// A descriptor that a careless caller left open.
    fn leaked() -> File {
        let file = tempfile::tempfile().unwrap();
        // SAFETY: calls fcntl on an open descriptor.
        assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
        file
    }

    /// Whether the shell that `command` starts has the descriptor.
    fn has(mut command: Command, file: &File) -> bool {
        let script = format!("test -e /proc/self/fd/{}", file.as_raw_fd());
        command.args(["-c", &script]).status().unwrap().success()
    }

    #[test]
    fn an_inherited_descriptor_is_not_passed_to_the_child() {
        let file = leaked();
        assert!(has(Command::new("sh"), &file), "an ordinary command passes it on");
        assert!(!has(command("sh"), &file));
    }

    #[test]
    fn a_listed_close_on_exec_descriptor_is_passed_to_the_child() {
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
    fn without_close_range_descriptors_are_marked_individually() {
        let file = leaked();
        close_on_exec_one_by_one(file.as_raw_fd(), file.as_raw_fd());
        assert!(!has(Command::new("sh"), &file));
    }
}
