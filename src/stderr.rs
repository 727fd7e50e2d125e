//! Messages on standard error, for the user.
//!
//! A message that cannot be written (a closed pipe, a full disk) is lost and the program goes on. `eprintln!` panics instead, and a panic
//! leaves behind what was to be removed.

use std::fmt::Arguments;
use std::io::Write;

/// Prints a line to standard error, as `eprintln!` without its panic.
macro_rules! say {
    () => { $crate::stderr::write(format_args!("\n")) };
    ($($text:tt)*) => { $crate::stderr::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// What begins a message of the program itself. What users know from `kubectl` begins as there, without it.
pub(crate) const PREFIX: &str = "microkube: ";

/// Prints a message of the program itself, with [`PREFIX`].
macro_rules! report {
    ($($text:tt)*) => { $crate::stderr::write(format_args!("{}{}\n", $crate::stderr::PREFIX, format_args!($($text)*))) };
}

pub(crate) use {report, say};

/// Writes a text to standard error in one go, if that is possible.
pub(crate) fn write(text: Arguments<'_>) {
    write_bytes(text.to_string().as_bytes());
}

/// As [`write`], of bytes that need not be text.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    const IN_CHILD: &str = "MICROKUBE_TEST_SAYS";
    const CODE: i32 = 7;

    /// Runs this test again in a process that has this standard error; its exit code.
    fn code_with(stderr: Stdio) -> Option<i32> {
        let name = "stderr::tests::a_message_that_nobody_can_read_ends_nothing";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "yes");
        child.stdout(Stdio::null()).stderr(stderr);
        child.status().unwrap().code()
    }

    #[test]
    fn a_message_that_nobody_can_read_ends_nothing() {
        if std::env::var_os(IN_CHILD).is_some() {
            say!("a {}", "line");
            say!();
            std::process::exit(CODE);
        }
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(code_with(full.into()), Some(CODE));
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        assert_eq!(code_with(writer.into()), Some(CODE));
        let (mut reader, writer) = std::io::pipe().unwrap();
        assert_eq!(code_with(writer.into()), Some(CODE));
        assert_eq!(std::io::read_to_string(&mut reader).unwrap(), "a line\n\n");
    }
}
