//! Where Pods run: on this machine where its KVM can run guests, else in the emulated host.

use std::path::PathBuf;
use std::process::ExitCode;

use microkube_vmm::probe;

use super::Failure;
use crate::machine;
use crate::state::Paths;

/// Runs this command line in the emulated host if this machine's KVM cannot run guests, and returns its exit code; `None`
/// where KVM works. `stdin` replaces the standard input, for a verb that has read it already.
pub(super) fn delegate_unless_usable(stdin: Option<Vec<u8>>) -> Result<Option<ExitCode>, Failure> {
    if machine::is_inside() || is_known_to_work() {
        return Ok(None);
    }
    match probe::check_kvm() {
        Ok(()) => {
            remember_that_it_works();
            Ok(None)
        }
        // Something the user can put right is not worked around.
        Err(error @ probe::ProbeError::PermissionDenied { .. }) => Err(error.into()),
        Err(error) => {
            let error = anyhow::Error::from(error);
            eprintln!("microkube: KVM of this machine cannot run guests ({error:#}); using the emulated host, which is slow");
            Ok(Some(machine::run_inside(stdin)?))
        }
    }
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
