//! Reports of the VMM on standard error. The supervisor that reads them may be gone, may not read, or may have a full
//! disk. None of this may stop a device or end the process.
//!
//! A supervisor gives the VMM a standard error that never blocks (`nonblocking_writer` in
//! `src/pod/virtual_machine.rs`). The console writes to the same pipe, through an end that blocks. Checking for room
//! before writing is therefore not enough: the console may take the room in between.

use std::fmt;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU32, Ordering};

/// Maximum length of a report in bytes. A pipe that accepts anything at all accepts this much (`PIPE_BUF`) and does not
/// mix it with other writes.
const MAX_BYTES: usize = 4096;

/// Maximum number of reports while the guest runs. The guest causes most of them, and must not fill a log.
const MAX_REPORTS: u32 = 128;

static REPORTS: AtomicU32 = AtomicU32::new(0);

/// Writes one line that begins with the program's name. A line is lost if it cannot be written immediately, or if there
/// were too many.
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

/// Writes the report that ends the process, regardless of how many reports there were.
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
    // The poll handles a standard error from a user, which may block. SAFETY: one pollfd that lives through the call;
    // then the pointer and length of a vector. Without a reader, `write` fails, and the signals that could come with
    // that are ignored: SIGPIPE by Rust's start-up code, SIGXFSZ by the jail.
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
    fn the_number_of_reports_a_guest_can_cause_is_limited() {
        let counts: Vec<u32> = std::iter::successors(Some(0), |reports| one_more(*reports)).collect();
        assert_eq!(counts.last(), Some(&MAX_REPORTS));
    }

    #[test]
    fn a_missing_reader_a_full_disk_and_a_closed_descriptor_are_survived() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        report_to(writer.as_raw_fd(), format_args!("nobody reads this"));
        let full = File::options().write(true).open("/dev/full").unwrap();
        report_to(full.as_raw_fd(), format_args!("no space left"));
        report_to(-1, format_args!("no descriptor"));
        report_to(1 << 20, format_args!("no descriptor either"));
    }

    #[test]
    fn a_stalled_reader_does_not_block_a_report() {
        let (_reader, writer) = std::io::pipe().unwrap();
        for _ in 0..1000 {
            report_to(writer.as_raw_fd(), format_args!("{}", "x".repeat(1000)));
        }
    }

    #[test]
    fn a_console_that_fills_the_pipe_does_not_block_a_report() {
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
        // Both compete for the room that appears from time to time; then there is none.
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
    fn a_confined_thread_survives_a_report_without_a_reader() {
        for role in ROLES {
            let signal = signal_of(role, report_to_nobody, || report(format_args!("a rule was broken")));
            assert_eq!(signal, 0, "{role:?}");
        }
    }
}
