//! `microkube recover`: takes over or releases the Pods of dead supervisors or a crashed host.

use std::process::ExitCode;

use super::failure::{Failure, complain};
use super::pods_host;
use crate::pod;
use crate::state::{Paths, PodRecords};

/// Recover all Pods after a crash or a reboot
///
/// Takes over the VMs of detached Pods that still run, without restarting containers. Restarts Pods that lost their VM
/// according to their restartPolicy. Finishes interrupted deletions, and releases host resources of ended Pods. Every
/// command that changes something does the same in the background; this one waits until it is done. Run it when the
/// host boots, as microkube-recover.service does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube recover")]
pub struct RecoverArgs {}

/// Runs the verb.
pub(super) fn run(_: RecoverArgs) -> Result<ExitCode, Failure> {
    pods_host::check_kvm_for_pods()?;
    // A service runs this whenever the host boots, which must not start an unused emulated host.
    if pods_host::never_had_pods()? {
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(exit_code) = pods_host::delegate_unless_kvm_works(None)? {
        return Ok(exit_code);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let paths = Paths::from_env();
    let failures = runtime.block_on(pod::recover(&paths))?;
    failures.iter().for_each(complain);
    // Pods with unreadable records were left alone, with a warning.
    let (_, damaged) = PodRecords::new(paths).list_all()?;
    Ok(ExitCode::from(u8::from(!damaged.is_empty() || !failures.is_empty())))
}
