//! `microkube recover`: takes care of what dead supervisors, or a dead host, have left.

use std::process::ExitCode;

use super::failure::{Failure, complain};
use super::pods_host;
use crate::pod;
use crate::state::{Paths, PodRecords};

/// Bring all Pods back after a crash or a reboot
///
/// Running machines of detached Pods are taken over with no container restarted, Pods whose machine was lost go on as their
/// restartPolicy says, deletions that were cut off are finished, and what ended Pods have left on the host is released. Every command
/// that changes something does the same; this one waits until it is done. To be run when the host starts
/// (examples/microkube-recover.service).
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  microkube recover")]
pub struct RecoverArgs {}

/// Runs the verb.
pub(super) fn run(_: RecoverArgs) -> Result<ExitCode, Failure> {
    if let Some(exit_code) = pods_host::delegate_unless_kvm_works(None)? {
        return Ok(exit_code);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let paths = Paths::from_env();
    let failures = runtime.block_on(pod::recover(&paths))?;
    failures.iter().for_each(complain);
    // Those of which the record cannot be read were warned of and left alone.
    let (_, damaged) = PodRecords::new(paths).list_all()?;
    Ok(ExitCode::from(u8::from(!damaged.is_empty() || !failures.is_empty())))
}
