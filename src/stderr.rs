//! Messages on standard error, for the user.
//!
//! A message that cannot be written (a closed pipe, a full disk) is lost, and the program continues. `eprintln!` would
//! panic, and a panic would skip cleanups.

use std::fmt::Arguments;
use std::io::Write;

/// Prints a line to standard error, like `eprintln!` but without a panic.
macro_rules! say {
    () => { $crate::stderr::write(format_args!("\n")) };
    ($($text:tt)*) => { $crate::stderr::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// Prefix of microkube's own messages. Messages that users know from `kubectl` do not have it.
pub(crate) const PREFIX: &str = "microkube: ";

/// Prints one of microkube's own messages, with [`PREFIX`].
macro_rules! report {
    ($($text:tt)*) => { $crate::stderr::write(format_args!("{}{}\n", $crate::stderr::PREFIX, format_args!($($text)*))) };
}

pub(crate) use {report, say};

/// Writes text to standard error in a single write, if possible.
pub(crate) fn write(text: Arguments<'_>) {
    write_bytes(text.to_string().as_bytes());
}

/// Like [`write()`], for bytes that need not be text.
pub(crate) fn write_bytes(bytes: &[u8]) {
    let _ = std::io::stderr().write_all(bytes);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    const IN_CHILD: &str = "MICROKUBE_TEST_SAYS";
    const CODE: i32 = 7;

    /// Runs this test again in a process with this standard error; returns its exit code.
    fn code_with(stderr: Stdio) -> Option<i32> {
        let name = "stderr::tests::an_unwritable_message_does_not_end_the_process";
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).env(IN_CHILD, "yes");
        child.stdout(Stdio::null()).stderr(stderr);
        child.status().unwrap().code()
    }

    #[test]
    fn an_unwritable_message_does_not_end_the_process() {
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
