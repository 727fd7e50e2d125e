//! Releases what a Pod has of the host, once nothing of it runs any more.

use super::{machine_plan, prepare};
use crate::network;
use crate::state::{Paths, PodRecords};
use crate::volume;

/// Releases what the Pod has of the host; with `forget` its records too.
///
/// # Errors
/// When something of it cannot be released.
pub async fn release(paths: &Paths, records: &PodRecords, uid: &str, forget: bool) -> anyhow::Result<()> {
    let network = network::release(&paths.network(), uid).await;
    if forget {
        records.remove(uid)?;
        return Ok(network?);
    }
    release_files(paths, uid)?;
    network?;
    if let Some(record) = records.get(uid)? {
        records.save(&record.into_released())?;
    }
    Ok(())
}

/// Removes what only a Pod that may still run needs on disk.
fn release_files(paths: &Paths, uid: &str) -> std::io::Result<()> {
    volume::remove_scratch_disk(&prepare::scratch_path(paths, uid))?;
    for path in [
        prepare::vsock_path(paths, uid),
        paths.supervisor_socket(uid),
        machine_plan::path(paths, uid),
    ] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
