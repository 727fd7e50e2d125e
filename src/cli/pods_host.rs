//! Where Pods run: on this host if its KVM can run guests, else in the emulated host.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use microkube_vmm::probe;

use super::failure::Failure;
use super::readable::check_readable;
use crate::emulated_host;
use crate::pod;
use crate::state::Paths;

/// Where the Pods of a verb are.
#[derive(Debug)]
pub(super) enum Place {
    /// Here, with their records in these directories.
    Here(Paths),
    /// In the emulated host, where the verb was run; with this exit code.
    Elsewhere(ExitCode),
}

/// What a verb is about to do with Pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Show what there is. Where Pods run in the emulated host and it is not running, there is nothing.
    Look,
    /// Follow changes: the emulated host is started.
    Follow,
    /// Change what there is. What dead owners left is released first.
    Change,
    /// Start Pods.
    Start,
}

/// Finds where the Pods are; if that is the emulated host, runs the command line there. `consumed_stdin` is what the verb has already read of its
/// standard input.
pub(super) fn go_to_pods(purpose: Purpose, consumed_stdin: Option<&[u8]>) -> Result<Place, Failure> {
    let paths = Paths::from_env();
    if matches!(purpose, Purpose::Look | Purpose::Change)
        && why_unusable()?.is_some()
        && matches!(emulated_host::status(), Ok(emulated_host::Status::Stopped))
    {
        return Ok(Place::Here(paths));
    }
    if let Some(exit_code) = delegate_unless_kvm_works(consumed_stdin)? {
        return Ok(Place::Elsewhere(exit_code));
    }
    check_readable(&paths)?;
    if matches!(purpose, Purpose::Change | Purpose::Start) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(pod::sweep(&paths))?;
    }
    Ok(Place::Here(paths))
}

/// Runs this command line in the emulated host if this machine's KVM cannot run guests, and returns its exit code; `None`
/// where KVM works. `consumed_stdin` is what the verb has already read of its standard input.
pub(super) fn delegate_unless_kvm_works(consumed_stdin: Option<&[u8]>) -> Result<Option<ExitCode>, Failure> {
    let Some(error) = why_unusable()? else { return Ok(None) };
    if let Some(text) = consumed_stdin {
        replace_stdin(text).context("cannot pass standard input on")?;
    }
    Ok(Some(emulated_host::run_inside(&format!(
        "KVM of this machine cannot run guests ({error:#})"
    ))))
}

/// Why this machine's KVM cannot run guests; `None` if it can.
fn why_unusable() -> Result<Option<anyhow::Error>, Failure> {
    if emulated_host::is_inside() || is_known_to_work() {
        return Ok(None);
    }
    match probe::check_kvm(std::path::Path::new("/dev/kvm")) {
        Ok(()) => {
            remember_that_it_works();
            Ok(None)
        }
        // Something the user can put right is not worked around.
        Err(error @ probe::ProbeError::Permission { .. }) => Err(error.into()),
        Err(error) => Ok(Some(error.into())),
    }
}

/// Makes standard input a file with this content, so that it can be read again from the start.
fn replace_stdin(text: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::tempfile()?;
    file.write_all(text)?;
    file.rewind()?;
    nix::unistd::dup2_stdin(file)?;
    Ok(())
}

/// Trying KVM takes some milliseconds, and what works once works until the next boot: `/run` is empty then.
fn marker() -> PathBuf {
    Paths::from_env().run_dir().join("kvm-works")
}

fn is_known_to_work() -> bool {
    marker().exists() && std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn remember_that_it_works() {
    let marker = marker();
    // Without the marker KVM is tried again next time, which is no harm.
    if let Some(dir) = marker.parent() {
        let _ = std::fs::create_dir_all(dir);
    }
    let _ = std::fs::write(marker, "");
}

/// Whether Pods run on this host itself.
pub(super) fn pods_are_here() -> bool {
    matches!(why_unusable(), Ok(None))
}
