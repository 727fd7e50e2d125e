//! This process's log. By default it contains warnings and errors as text; `MICROKUBE_LOG` sets other directives of
//! `tracing_subscriber`'s `EnvFilter`.
//!
//! A directive's target is a prefix of a module path, and each crate is a separate module: `microkube=debug` is all of
//! microkube, `microkube::pod=trace` a part of this crate, `microkube_image=debug` the image crate.
//!
//! A log that cannot be written (closed pipe, full disk) does not end the process: writing to it never fails.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::journal::{self, Journal};
use crate::config::log_filter;
use crate::pod::SupervisorLog;
use crate::stderr::report;

/// `text` (the default) or `json`.
const FORMAT_VARIABLE: &str = "MICROKUBE_LOG_FORMAT";
/// `stderr` (the default; for a supervisor: its file) or `journal`.
const OUTPUT_VARIABLE: &str = "MICROKUBE_LOG_OUTPUT";

/// Starts the log of a command.
pub(super) fn of_command() {
    match journal_for(None) {
        Some(journal) => start(journal, Style::Journal),
        None if io::stderr().is_terminal() => start(|| LossyStderr, Style::Terminal),
        None => start(|| LossyStderr, Style::File),
    }
}

/// Starts the log of a Pod's supervisor, and returns whether it is the journal. The file has a limited size.
pub(super) fn of_supervisor(file: PathBuf, uid: &str) -> bool {
    let journal = journal_for(Some(uid));
    let is_journal = journal.is_some();
    match journal {
        Some(journal) => start(journal, Style::Journal),
        None => start(Arc::new(SupervisorLog::resume(file)), Style::File),
    }
    is_journal
}

/// The journal, if it is the configured output and exists.
fn journal_for(pod: Option<&str>) -> Option<Journal> {
    let is_wanted = one_of(OUTPUT_VARIABLE, &["stderr", "journal"]) == "journal";
    let opened = is_wanted.then(|| Journal::open(Path::new(journal::SOCKET), pod))?;
    opened
        .inspect_err(|error| report!("cannot log to the journal ({}): {error}", journal::SOCKET))
        .ok()
}

/// The value of a variable, or by default the first of its allowed values. Other values are reported.
fn one_of(variable: &str, values: &[&'static str]) -> &'static str {
    let default = values.first().copied().unwrap_or_default();
    let Some(value) = std::env::var_os(variable).filter(|value| !value.is_empty()) else {
        return default;
    };
    values.iter().copied().find(|known| value == *known).unwrap_or_else(|| {
        report!(
            "{variable}: expected {}, found {value:?}; using {default}",
            values.join(" or ")
        );
        default
    })
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Terminal,
    File,
    /// Lines without the level, which the journal stores as the priority.
    Journal,
}

fn start(writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static, style: Style) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter(&std::env::var("MICROKUBE_LOG").unwrap_or_default()))
        .with_writer(writer)
        .with_ansi(style == Style::Terminal);
    if one_of(FORMAT_VARIABLE, &["text", "json"]) == "json" {
        log.json().with_current_span(false).with_span_list(false).init();
    } else {
        log.with_level(style != Style::Journal)
            .without_time()
            .with_target(false)
            .init();
    }
}

/// Invalid directives are reported on standard error; the others apply.
fn filter(directives: &str) -> EnvFilter {
    EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::WARN.into())
        .parse_lossy(log_filter::without_spaces(directives))
}

/// Standard error that discards what cannot be written. `tracing` would panic on the error.
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

    /// The targets that log debug messages with these directives.
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
    fn a_filter_by_program_name_includes_all_crates_and_by_crate_only_that_one() {
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
        // The module paths in these crates.
        assert!(std::any::type_name::<crate::pod::Supervisor>().starts_with("microkube::pod::"));
        assert!(std::any::type_name::<microkube_image::ImageStore>().starts_with("microkube_image::"));
        assert!(std::any::type_name::<microkube_manifest::Manifests>().starts_with("microkube_manifest::"));
    }

    /// Set in the process that loses its standard error.
    const INSIDE: &str = "MICROKUBE_TEST_LOSES_STDERR";

    /// That process's exit code: a process that runs no test would exit with 0.
    const CODE: i32 = 7;

    #[test]
    fn a_process_survives_the_loss_of_its_standard_error() {
        if std::env::var_os(INSIDE).is_some() {
            super::of_command();
            tracing::error!("nobody reads this");
            std::process::exit(CODE);
        }
        let (read, write) = std::io::pipe().unwrap();
        drop(read);
        let full = File::options().write(true).open("/dev/full").unwrap();
        for stderr in [Stdio::from(write), Stdio::from(full)] {
            let status = Command::new(std::env::current_exe().unwrap())
                // Uncaptured, because output that libtest captures never reaches standard error.
                .args([
                    "--exact",
                    "cli::log::tests::a_process_survives_the_loss_of_its_standard_error",
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

    /// Set in the process whose log the test reads.
    const LOGGING: &str = "MICROKUBE_TEST_LOGS";

    /// What a process with these settings logs to standard error.
    fn logged_by_process(format: &str, output: &str) -> String {
        let mut child = Command::new(std::env::current_exe().unwrap());
        let name = "cli::log::tests::format_and_output_are_settings";
        child.args(["--exact", name, "--nocapture"]).env(LOGGING, "1");
        child
            .env(super::FORMAT_VARIABLE, format)
            .env(super::OUTPUT_VARIABLE, output);
        child.env_remove("MICROKUBE_LOG").stdout(Stdio::null());
        String::from_utf8(child.stderr(Stdio::piped()).output().unwrap().stderr).unwrap()
    }

    #[test]
    fn format_and_output_are_settings() {
        if std::env::var_os(LOGGING).is_some() {
            super::of_command();
            tracing::warn!(code = 7, "odd");
            tracing::info!("not shown");
            std::process::exit(0);
        }
        assert_eq!(logged_by_process("", ""), " WARN odd code=7\n");
        assert_eq!(logged_by_process("text", "stderr"), " WARN odd code=7\n");
        let line: serde_json::Value = serde_json::from_str(&logged_by_process("json", "")).unwrap();
        assert_eq!(
            (&line["level"], &line["fields"]),
            (&"WARN".into(), &serde_json::json!({ "message": "odd", "code": 7 }))
        );
        assert!(line["timestamp"].is_string(), "{line}");
        assert_eq!(
            logged_by_process("xml", "file"),
            "microkube: MICROKUBE_LOG_OUTPUT: expected stderr or journal, found \"file\"; using stderr\n\
             microkube: MICROKUBE_LOG_FORMAT: expected text or json, found \"xml\"; using text\n WARN odd code=7\n"
        );
    }
}
