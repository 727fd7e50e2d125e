//! Where this process logs, and what: warnings and errors, unless `MICROKUBE_LOG` has other directives of `tracing_subscriber`'s `EnvFilter`.
//!
//! A directive's target is the beginning of a module's path, and crates are modules of their own: `microkube=debug` is all of microkube,
//! `microkube::pod=trace` a part of this crate, `microkube_image=debug` the crate of images.
//!
//! A log that cannot be written (its pipe is closed, its disk is full) does not end the process: writing to it never fails.

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
    tracing_subscriber::fmt()
        .with_env_filter(filter(&std::env::var("MICROKUBE_LOG").unwrap_or_default()))
        .with_writer(writer)
        .with_ansi(is_terminal)
        .without_time()
        .with_target(false)
        .init();
}

/// Directives that are not understood are named on standard error, and the others used.
fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .parse_lossy(directives)
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

    use tracing::Level;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// What is logged at these targets with these directives: the targets of the messages at level debug.
    fn logged(directives: &str) -> Vec<&'static str> {
        let subscriber = tracing_subscriber::registry().with(super::filter(directives));
        tracing::subscriber::with_default(subscriber, || {
            let mut logged = Vec::new();
            macro_rules! note {
                ($($target:literal)*) => {
                    $(if tracing::enabled!(target: $target, Level::DEBUG) {
                        logged.push($target);
                    })*
                };
            }
            note!("microkube::pod::sweep" "microkube_image::pull" "microkube_manifest::objects" "h2::client");
            logged
        })
    }

    #[test]
    fn the_name_of_the_program_means_all_of_its_crates_and_that_of_a_crate_this_one() {
        let own = [
            "microkube::pod::sweep",
            "microkube_image::pull",
            "microkube_manifest::objects",
        ];
        assert_eq!(logged("microkube=debug"), own);
        assert_eq!(logged("microkube_image=debug"), own[1..2]);
        assert_eq!(
            logged("microkube::pod=trace,microkube_manifest=debug"),
            [own[0], own[2]]
        );
        assert_eq!(logged("debug").len(), 4);
        assert!(logged("").is_empty() && logged("microkube=info").is_empty());
        // These are the paths of modules of these crates.
        assert!(std::any::type_name::<crate::pod::Supervisor>().starts_with("microkube::pod::"));
        assert!(std::any::type_name::<microkube_image::ImageStore>().starts_with("microkube_image::"));
        assert!(std::any::type_name::<microkube_manifest::Manifests>().starts_with("microkube_manifest::"));
    }

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
