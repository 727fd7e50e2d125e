//! `microkube version` and `microkube --version`.

use std::fs::File;
use std::io::Read as _;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;
use memchr::memmem;
use serde_json::{Value, json};

use super::failure::Failure;
use super::print::{emit, json_text};
use super::yaml;
use crate::build_id::{build, commit};
use crate::emulated_host;
use crate::pod::supervisor_protocol;
use crate::privileged::artifacts;
use crate::state::POD_RECORDS_VERSION;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The start of the first line that a kernel prints, which is a constant in its file (`linux_banner` in
/// `init/version-timestamp.c`).
const BANNER: &[u8] = b"Linux version ";

const MAX_KERNEL_VERSION_BYTES: usize = 128;

/// A guest kernel takes about 20 MB.
const MAX_KERNEL_BYTES: u64 = 256 << 20;

/// Print the versions of microkube, its protocols and its guest kernel
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  microkube version\n  microkube version -o json")]
pub struct VersionArgs {
    /// Output format
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    /// Accepted as in kubectl, without effect: there is no server
    #[arg(long = "client")]
    _client: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Yaml,
}

/// Runs the verb.
pub(super) fn run(args: &VersionArgs) -> Result<ExitCode, Failure> {
    let guest_kernel = guest_kernel();
    let guest_kernel = guest_kernel.as_ref().map(String::as_str);
    let text = match args.output {
        None => text(build(), commit(), guest_kernel),
        Some(Format::Json) => json_text(&object(build(), commit(), guest_kernel.ok())),
        Some(Format::Yaml) => yaml::document(&object(build(), commit(), guest_kernel.ok())),
    };
    emit(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Prints what `microkube --version` prints.
pub(super) fn print_line() -> Result<ExitCode, Failure> {
    emit(&line(build(), commit(), guest_kernel().ok().as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

fn line(build: &str, commit: Option<&str>, guest_kernel: Option<&str>) -> String {
    let commit = commit.map(|commit| format!("commit {commit}, ")).unwrap_or_default();
    let protocol = supervisor_protocol::VERSIONS.newest;
    let guest_kernel = guest_kernel.unwrap_or("not found");
    format!("microkube {build} ({commit}protocol {protocol}, guest kernel {guest_kernel})\n")
}

fn text(build: &str, commit: Option<&str>, guest_kernel: Result<&str, &anyhow::Error>) -> String {
    let commit = commit.unwrap_or("unknown");
    let guest_kernel = guest_kernel.map_or_else(|error| format!("{error:#}"), str::to_owned);
    format!(
        "Version:       {VERSION}\n\
         Build:         {build}\n\
         Commit:        {commit}\n\
         Guest kernel:  {guest_kernel}\n\
         Records:       {POD_RECORDS_VERSION}\n\
         Protocols:     supervisor {}, VMM {}, agent {}, emulated host {}\n\
         Platform:      linux/amd64\n",
        supervisor_protocol::VERSIONS.newest,
        microkube_vmm::config::PROTOCOL_VERSION,
        microkube_protocol::AGENT_VERSIONS.newest,
        emulated_host::protocol_version(),
    )
}

fn object(build: &str, commit: Option<&str>, guest_kernel: Option<&str>) -> Value {
    json!({
        "version": VERSION,
        "build": build,
        "commit": commit,
        "guestKernel": guest_kernel,
        "recordsVersion": POD_RECORDS_VERSION,
        "protocolVersions": {
            "supervisor": supervisor_protocol::VERSIONS.newest,
            "vmm": microkube_vmm::config::PROTOCOL_VERSION,
            "agent": microkube_protocol::AGENT_VERSIONS.newest,
            "emulatedHost": emulated_host::protocol_version(),
        },
        "platform": "linux/amd64",
    })
}

/// The version of the kernel that guests boot.
fn guest_kernel() -> anyhow::Result<String> {
    let path = artifacts::guest_image()?.kernel;
    let mut kernel = Vec::new();
    File::open(&path)
        .and_then(|file| file.take(MAX_KERNEL_BYTES).read_to_end(&mut kernel))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let version = kernel_version(&kernel).with_context(|| format!("{} is not a Linux kernel", path.display()))?;
    Ok(version.to_owned())
}

fn kernel_version(kernel: &[u8]) -> Option<&str> {
    memmem::find_iter(kernel, BANNER).find_map(|at| {
        let text = kernel.get(at..)?.strip_prefix(BANNER)?;
        let text = text.get(..MAX_KERNEL_VERSION_BYTES).unwrap_or(text);
        let version = std::str::from_utf8(text.get(..memchr::memchr(b' ', text)?)?).ok()?;
        // A format string starts the same way.
        let is_version = version.starts_with(|first: char| first.is_ascii_digit())
            && version.chars().all(|character| character.is_ascii_graphic());
        is_version.then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_a_kernel_is_read_from_its_banner() {
        let kernel = b"\x7fELF\0Linux version %s (%s)\0\0Linux version 6.12.1-microkube (a@b) (gcc) #1\n\0";
        assert_eq!(kernel_version(kernel), Some("6.12.1-microkube"));
        for other in [
            &b""[..],
            b"Linux version ",
            b"Linux version 6",
            b"Linux version 6\xff1 ",
            b"Linux version 6\x1b ",
        ] {
            assert_eq!(kernel_version(other), None, "{other:?}");
        }
    }

    #[test]
    fn version_is_one_line_with_build_commit_protocol_and_guest_kernel() {
        let expected = "microkube 0.1.0+1a2b3c4d (commit 0123abc, protocol 4, guest kernel 6.12.1-microkube)\n";
        assert_eq!(
            line("0.1.0+1a2b3c4d", Some("0123abc"), Some("6.12.1-microkube")),
            expected
        );
        assert_eq!(
            line("0.1.0", None, None),
            "microkube 0.1.0 (protocol 4, guest kernel not found)\n"
        );
    }

    #[test]
    fn the_verb_prints_every_version_as_text_and_as_an_object() {
        let expected = format!(
            "Version:       {VERSION}\nBuild:         0.1.0+1a2b3c4d\nCommit:        0123abc\nGuest kernel:  6.12.1\nRecords:       1\n\
             Protocols:     supervisor 4, VMM 3, agent 6, emulated host 2\nPlatform:      linux/amd64\n"
        );
        assert_eq!(text("0.1.0+1a2b3c4d", Some("0123abc"), Ok("6.12.1")), expected);
        let missing = anyhow::anyhow!("cannot find the guest kernel");
        let text = text("0.1.0", None, Err(&missing));
        assert!(text.contains("\nCommit:        unknown\nGuest kernel:  cannot find the guest kernel\n"));
        let object = object("0.1.0+1a2b3c4d", None, None);
        assert_eq!(object["commit"], Value::Null);
        assert_eq!(object["guestKernel"], Value::Null);
        assert_eq!(object["protocolVersions"]["emulatedHost"], 2);
    }
}
