//! Releases what a Pod has of the host, once nothing of it runs any more.

use super::machine_plan;
use crate::privileged::Privileges;
use crate::state::{Paths, PodRecords};

/// Releases what the Pod has of the host; with `forget` its records too.
///
/// # Errors
/// When something of it cannot be released.
pub async fn release(paths: &Paths, records: &PodRecords, uid: &str, forget: bool) -> anyhow::Result<()> {
    let released = Privileges::new(paths).of_pod(uid)?.release().await;
    if forget {
        records.remove(uid)?;
        return Ok(released?);
    }
    release_files(paths, uid)?;
    released?;
    if let Some(record) = records.get(uid)? {
        records.save(&record.into_released())?;
    }
    Ok(())
}

/// Removes what only the supervisor of a Pod that may still run needs on disk.
fn release_files(paths: &Paths, uid: &str) -> std::io::Result<()> {
    for path in [paths.supervisor_socket(uid), machine_plan::path(paths, uid)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
