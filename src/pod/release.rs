//! Releases a Pod's host resources once none of its processes run.

use super::machine_plan;
use super::pod_version::PodVersions;
use crate::privileged::Privileges;
use crate::state::{Paths, PodRecords};

/// Releases the Pod's host resources and, with `forget`, its records.
///
/// # Errors
/// If a resource cannot be released.
pub async fn release(paths: &Paths, records: &PodRecords, uid: &str, forget: bool) -> anyhow::Result<()> {
    let released = Privileges::new(paths).of_pod(uid)?.release().await;
    if forget {
        PodVersions::new(paths).remove(uid)?;
        return Ok(released?);
    }
    release_files(paths, uid)?;
    released?;
    if let Some(record) = records.get(uid)? {
        records.save(&record.into_released())?;
    }
    Ok(())
}

/// Removes files that only the supervisor of a running Pod needs.
fn release_files(paths: &Paths, uid: &str) -> std::io::Result<()> {
    for path in [paths.supervisor_socket(uid), machine_plan::path(paths, uid)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
