//! The agent's log: lines in the kernel's ring buffer (`/dev/kmsg`), never on the console.
//!
//! One buffer therefore holds the messages of kernel and agent in order, and the log stream sends both to the host.

use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::{Mutex, OnceLock};

use crate::lock::lock;

static KMSG: OnceLock<File> = OnceLock::new();

/// Lines from before the kernel's log could be opened.
static EARLY: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Maximum number of early lines that are kept; only a few are written before the log opens.
const MAX_EARLY_LINES: usize = 32;

/// Maximum length of a message in bytes. The kernel cuts records at 1024 (`PRINTKRB_RECORD_MAX`), prefix included.
const MAX_MESSAGE_BYTES: usize = 900;

/// Priority of a line, syslog(3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The VM cannot continue.
    Critical = 2,
    /// Something failed.
    Error = 3,
    /// Something unexpected was handled.
    Warning = 4,
    /// Normal events.
    Info = 6,
}

/// Opens the kernel's log. A failure cannot be reported anywhere.
pub fn open() {
    if let Ok(kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = KMSG.set(kmsg);
    }
    // Without this the kernel drops all but ten lines in five seconds (printk_devkmsg, admin-guide/sysctl/kernel.rst).
    let _ = std::fs::write("/proc/sys/kernel/printk_devkmsg", "on\n");
    if let Some(kmsg) = KMSG.get() {
        for line in lock(&EARLY).drain(..) {
            write_record(kmsg, &line);
        }
    }
}

/// Writes one line.
pub fn write(level: Level, message: &dyn Display) {
    let line = line(level, &message.to_string());
    if let Some(kmsg) = KMSG.get() {
        write_record(kmsg, &line);
        return;
    }
    let mut early = lock(&EARLY);
    if early.len() < MAX_EARLY_LINES {
        early.push(line);
    }
}

fn write_record(mut kmsg: &File, line: &str) {
    // One write is one record. A failure cannot be reported anywhere.
    let _ = kmsg.write_all(line.as_bytes());
}

fn line(level: Level, message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    let message = message.get(..end).unwrap_or_default();
    format!("<{}>microkube-agent: {}\n", level as u8, message.replace('\n', "; "))
}

/// Logs at [`Level::Info`].
macro_rules! info {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Info, &format_args!($($arg)*)) };
}

/// Logs at [`Level::Warning`].
macro_rules! warning {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Warning, &format_args!($($arg)*)) };
}

/// Logs at [`Level::Error`].
macro_rules! error {
    ($($arg:tt)*) => { $crate::log::write($crate::log::Level::Error, &format_args!($($arg)*)) };
}

pub(crate) use {error, info, warning};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_priority_and_name() {
        assert_eq!(line(Level::Error, "no disk"), "<3>microkube-agent: no disk\n");
    }

    proptest! {
        #[test]
        fn any_message_becomes_one_bounded_line(message in any::<String>()) {
            let line = line(Level::Info, &message);
            prop_assert_eq!(line.matches('\n').count(), 1);
            prop_assert!(line.ends_with('\n'));
        }

        #[test]
        fn a_long_message_is_cut_between_characters(message in "[äß€x]{500,2000}") {
            prop_assert!(line(Level::Info, &message).len() <= MAX_MESSAGE_BYTES + 32);
        }
    }
}
