//! Where this process logs. Warnings and errors; `MICROKUBE_LOG` (as `debug` or `microkube::pod=trace`) says otherwise.
//!
//! A log that cannot be written (nobody reads it any more, its disk is full) is no reason to end: what writes it never fails.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::pod::SupervisorLog;

/// Logs to standard error.
pub(super) fn to_stderr() {
    start(|| LossyStderr, io::stderr().is_terminal());
}

/// Logs to a file that stays small.
pub(super) fn to_file(path: PathBuf) {
    start(Arc::new(SupervisorLog::resume(path)), false);
}

fn start(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static, is_terminal: bool) {
    let filter = EnvFilter::builder()
        .with_env_var("MICROKUBE_LOG")
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(is_terminal)
        .without_time()
        .with_target(false)
        .init();
}

/// Standard error, where what cannot be written is lost. `tracing` would panic over the error.
struct LossyStderr;

impl Write for LossyStderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::process::{Command, Stdio};

    /// Set in the process that loses its standard error.
    const INSIDE: &str = "MICROKUBE_TEST_LOSES_STDERR";

    /// What that process exits with: one that runs no test succeeds, too.
    const CODE: i32 = 7;

    #[test]
    fn a_process_that_loses_its_standard_error_goes_on() {
        if std::env::var_os(INSIDE).is_some() {
            super::to_stderr();
            tracing::error!("nobody reads this");
            std::process::exit(CODE);
        }
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for stderr in [Stdio::from(write), Stdio::from(full)] {
            let status = Command::new(std::env::current_exe().unwrap())
                // Uncaptured: what libtest captures never reaches standard error.
                .args([
                    "--exact",
                    "cli::log::tests::a_process_that_loses_its_standard_error_goes_on",
                    "--nocapture",
                ])
                .env(INSIDE, "1")
                .stdout(Stdio::null())
                .stderr(stderr)
                .status()
                .unwrap();
            assert_eq!(status.code(), Some(CODE), "{status}");
        }
    }
}
