//! What the VMM says of itself on standard error: to a supervisor that may be gone, may not read, or may have no room left on its
//! disk. None of it may stop a device or end the process.
//!
//! A supervisor gives the VMM a standard error that never blocks (`nonblocking_writer` in `src/pod/virtual_machine.rs`). The pipe is the
//! console's, too, whose end blocks: asking for room before writing is not enough, for the console may take it in between.

use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Longest report, bytes: so many fit into a pipe that takes anything at all (`PIPE_BUF`), and are not mixed with others there.
const MAX_BYTES: usize = 4096;

/// Most reports while the guest runs: it causes most of them, and may not fill a log.
const MAX_REPORTS: u32 = 128;

static REPORTS: AtomicU32 = AtomicU32::new(0);

/// Writes one line that begins with the program's name. What cannot be written at once is lost, and so is what follows too many.
pub fn report(message: fmt::Arguments<'_>) {
    if REPORTS
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        .is_ok()
    {
        report_to(libc::STDERR_FILENO, message);
    }
}

fn one_more(reports: u32) -> Option<u32> {
    (reports < MAX_REPORTS).then_some(reports + 1)
}

/// The same for what ends the process, however many reports there were.
pub fn report_end(message: fmt::Arguments<'_>) {
    report_to(libc::STDERR_FILENO, message);
}

fn report_to(fd: RawFd, message: fmt::Arguments<'_>) {
    let mut line = format!("microkube-vmm: {message}").into_bytes();
    line.truncate(MAX_BYTES - 1);
    line.push(b'\n');
    let mut ready = libc::pollfd {
        fd,
        events: libc::POLLOUT,
        revents: 0,
    };
    // For a standard error that a user gave, which may block.
    // SAFETY: one pollfd that lives through the call; then the pointer and length of a vector. `write` fails where nobody reads: the
    // signals that could come with it are ignored, SIGPIPE by Rust's start-up code, SIGXFSZ by the jail.
    unsafe {
        if libc::poll(&raw mut ready, 1, 0) == 1 && ready.revents & libc::POLLOUT != 0 {
            libc::write(fd, line.as_ptr().cast(), line.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::OpenOptionsExt;
    use std::time::Duration;

    use super::*;
    use crate::jail::seccomp::tests::{ROLES, signal_of};

    #[test]
    fn a_report_is_one_line_and_a_long_one_is_cut() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        report_to(writer.as_raw_fd(), format_args!("disk {}: broken", 1));
        report_to(writer.as_raw_fd(), format_args!("{}", "x".repeat(10_000)));
        drop(writer);
        let mut all = String::new();
        reader.read_to_string(&mut all).unwrap();
        let (first, second) = all.split_once('\n').unwrap();
        assert_eq!(first, "microkube-vmm: disk 1: broken");
        assert_eq!(second.len(), MAX_BYTES);
        assert!(second.ends_with("x\n"));
    }

    #[test]
    fn a_guest_can_cause_only_so_many_reports() {
        let counts: Vec<u32> = std::iter::successors(Some(0), |reports| one_more(*reports)).collect();
        assert_eq!(counts.last(), Some(&MAX_REPORTS));
    }

    #[test]
    fn a_reader_who_is_gone_a_full_disk_and_a_closed_descriptor_are_survived() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        report_to(writer.as_raw_fd(), format_args!("nobody reads this"));
        let full = File::options().write(true).open("/dev/full").unwrap();
        report_to(full.as_raw_fd(), format_args!("no space left"));
        report_to(-1, format_args!("no descriptor"));
        report_to(1 << 20, format_args!("no descriptor either"));
    }

    #[test]
    fn a_reader_who_does_not_read_is_not_waited_for() {
        let (_reader, writer) = std::io::pipe().unwrap();
        for _ in 0..1000 {
            report_to(writer.as_raw_fd(), format_args!("{}", "x".repeat(1000)));
        }
    }

    #[test]
    fn a_console_that_takes_the_last_room_holds_up_no_report() {
        let (mut reader, mut console) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", console.as_raw_fd());
        let stderr = File::options()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .unwrap();
        let writer = std::thread::spawn(move || while console.write_all(&[b'c'; 4096]).is_ok() {});
        let (done, reported) = std::sync::mpsc::channel();
        let reporter = std::thread::spawn(move || {
            for _ in 0..20_000 {
                report_to(stderr.as_raw_fd(), format_args!("{}", "x".repeat(2000)));
            }
            done.send(()).unwrap();
        });
        // There is room from time to time, and both want it; then there is none any more.
        let mut page = [0; 4096];
        for _ in 0..2000 {
            reader.read_exact(&mut page).unwrap();
        }
        reported.recv_timeout(Duration::from_secs(60)).unwrap();
        reporter.join().unwrap();
        drop(reader);
        writer.join().unwrap();
    }

    /// Runs in a child of the test, which may lose its standard error.
    fn report_to_nobody() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        // SAFETY: a system call on descriptors of this process.
        unsafe { libc::dup2(writer.as_raw_fd(), libc::STDERR_FILENO) };
    }

    #[test]
    fn a_confined_thread_that_reports_to_nobody_lives_on() {
        for role in ROLES {
            let signal = signal_of(role, report_to_nobody, || report(format_args!("a rule was broken")));
            assert_eq!(signal, 0, "{role:?}");
        }
    }
}
