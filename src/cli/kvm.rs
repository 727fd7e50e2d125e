//! Where Pods run: on this machine where its KVM can run guests, else in the emulated host.

use std::io::{Seek, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use microkube_vmm::probe;

use super::Failure;
use crate::machine;
use crate::state::Paths;

/// Runs this command line in the emulated host if this machine's KVM cannot run guests, and returns its exit code; `None`
/// where KVM works. `consumed_stdin` is what the verb has already read of its standard input.
pub(super) fn delegate_unless_usable(consumed_stdin: Option<&[u8]>) -> Result<Option<ExitCode>, Failure> {
    if machine::is_inside() || is_known_to_work() {
        return Ok(None);
    }
    match probe::check_kvm(std::path::Path::new("/dev/kvm")) {
        Ok(()) => {
            remember_that_it_works();
            Ok(None)
        }
        // Something the user can put right is not worked around.
        Err(error @ probe::ProbeError::Permission { .. }) => Err(error.into()),
        Err(error) => {
            if let Some(text) = consumed_stdin {
                replace_stdin(text).context("cannot pass standard input on")?;
            }
            let error = anyhow::Error::from(error);
            Ok(Some(machine::run_inside(&format!(
                "KVM of this machine cannot run guests ({error:#})"
            ))))
        }
    }
}

/// Makes standard input a file with this content, so that whoever reads it next reads it from the start.
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
