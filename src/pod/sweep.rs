//! Releases what dead owners left behind. Every command of microkube sweeps before it does its own work.

use std::os::fd::AsFd;
use std::process::Child;
use std::time::{Duration, Instant};

use super::{attach, launch, supervisor, virtual_machine};
use crate::network;
use crate::state::{LockedFile, Paths, PodRecord, PodRecords};

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a supervisor may take to end a Pod whose command line was killed: longer than the lifecycle's own patience.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// Releases the machines, addresses, disks and sockets of all Pods without an owner; detached Pods that should still run get a
/// supervisor again.
///
/// # Errors
/// The first thing that could not be looked at. What cannot be released is left to the next sweep, with a warning.
pub async fn sweep(paths: &Paths) -> anyhow::Result<()> {
    sweep_and_launch(paths).await.map(drop)
}

/// [`sweep`], and waits until the new supervisors know their Pods.
///
/// # Errors
/// As [`sweep`].
pub async fn recover(paths: &Paths) -> anyhow::Result<()> {
    let start = Instant::now();
    for (uid, mut supervisor) in sweep_and_launch(paths).await? {
        while supervisor.try_wait()?.is_none() && attach::connect(&paths.pod_run(&uid)).is_err() {
            if start.elapsed() > END_PATIENCE {
                anyhow::bail!("the supervisor of Pod {uid} does not answer");
            }
            // That somebody begins to listen can only be found out by connecting.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    Ok(())
}

/// Returns the supervisors that were started, by the UIDs of their Pods.
async fn sweep_and_launch(paths: &Paths) -> anyhow::Result<Vec<(String, Child)>> {
    let mut launched = Vec::new();
    let records = PodRecords::new(paths.clone());
    for uid in records.uids()? {
        match records.get(&uid) {
            Ok(Some(record)) if record.released => continue,
            Ok(_) => {}
            // Nobody can tell what is to be done with it, and it may be put right.
            Err(error) => {
                tracing::warn!("Pod {uid} is left as it is: {:#}", anyhow::Error::from(error));
                continue;
            }
        }
        // Held until the Pod is gone, so that two sweeps do not meet.
        let Some(lock) = claim(&records, &uid).await? else {
            continue;
        };
        tracing::info!("taking care of what the dead supervisor of Pod {uid} left behind");
        match take_care(paths, &records, &uid, &lock).await {
            Ok(supervisor) => launched.extend(supervisor.map(|supervisor| (uid, supervisor))),
            Err(error) => tracing::warn!("Pod {uid} cannot be released: {error:#}"),
        }
    }
    let live: std::collections::HashSet<_> = records.uids()?.into_iter().collect();
    network::sweep(&paths.network(), |uid| live.contains(uid)).await?;
    Ok(launched)
}

async fn take_care(paths: &Paths, records: &PodRecords, uid: &str, lock: &LockedFile) -> anyhow::Result<Option<Child>> {
    let record = match records.get(uid)? {
        Some(record) if record.detached => record,
        _ => return release_abandoned(paths, records, uid).await.map(|()| None),
    };
    let ended =
        matches!(records.status(uid), Ok(Some(status)) if status.is_terminal() && status.deletion_timestamp.is_none());
    if !ended {
        // It knows what to do about a machine that is gone, or a deletion that was not finished.
        return launch::start_supervisor(paths, &record, lock.as_fd(), None, false).map(Some);
    }
    end_processes(&record).await?;
    network::release(&paths.network(), uid).await?;
    supervisor::release_files(paths, uid)?;
    records.save(&record.into_released())?;
    Ok(None)
}

/// Releases a Pod that has no owner and forgets it, as `delete` does with one that has ended. Returns whether that was so.
///
/// # Errors
/// When something of it cannot be released.
pub async fn remove_ownerless(paths: &Paths, uid: &str) -> anyhow::Result<bool> {
    let records = PodRecords::new(paths.clone());
    let Some(_lock) = records.claim(uid)? else {
        return Ok(false);
    };
    release_abandoned(paths, &records, uid).await?;
    Ok(true)
}

/// Becomes the owner of a Pod that has none. A Pod whose command line was killed is being ended by its supervisor: that is waited
/// for, so that what the command line left behind is gone after the next command.
async fn claim(records: &PodRecords, uid: &str) -> anyhow::Result<Option<LockedFile>> {
    let start = Instant::now();
    loop {
        let lock = records.claim(uid)?;
        if lock.is_some() || start.elapsed() > END_PATIENCE {
            return Ok(lock);
        }
        match records.get(uid) {
            Ok(Some(record)) if record.client.as_ref().is_some_and(|client| !client.is_alive()) => {}
            _ => return Ok(None),
        }
        // A lock cannot be waited for with a limit other than by trying again.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn release_abandoned(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    if let Some(record) = records.get(uid)? {
        end_processes(&record).await?;
    }
    network::release(&paths.network(), uid).await?;
    records.remove(uid)?;
    Ok(())
}

async fn end_processes(record: &PodRecord) -> anyhow::Result<()> {
    let unnoted = virtual_machine::unnoted_vmms(&record.uid);
    for process in [record.vmm.clone(), record.supervisor.clone()]
        .into_iter()
        .flatten()
        .chain(unnoted)
    {
        if !tokio::task::spawn_blocking(move || process.kill(KILL_PATIENCE)).await?? {
            anyhow::bail!("a process of it does not end");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::state::{PodRecord, ProcessIdentity};

    #[tokio::test]
    async fn a_pod_whose_owner_died_is_released_with_its_processes_and_one_that_has_an_owner_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(vmm.id()).unwrap());
        drop(records.create(&record("dead", identity.clone())).unwrap());
        let _owned = records.create(&record("alive", None)).unwrap();

        sweep(&paths).await.unwrap();

        assert_eq!(records.uids().unwrap(), ["alive"]);
        vmm.wait().unwrap();
        assert!(!identity.unwrap().is_alive());
    }

    #[tokio::test]
    async fn a_pod_whose_record_cannot_be_read_is_kept_until_its_record_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let record = record("damaged", None);
        drop(records.create(&record).unwrap());
        let file = paths.pod_state("damaged").join("pod.json");
        let content = std::fs::read(&file).unwrap();
        std::fs::write(&file, content.get(..content.len() / 2).unwrap()).unwrap();
        std::fs::write(paths.pods().join("note.txt"), "not microkube's").unwrap();

        sweep(&paths).await.unwrap();

        std::fs::write(&file, &content).unwrap();
        assert_eq!(records.get("damaged").unwrap(), Some(record));
        std::fs::remove_file(&file).unwrap();
        sweep(&paths).await.unwrap();
        assert_eq!(records.uids().unwrap(), [""; 0]);
        assert!(paths.pods().join("note.txt").exists());
    }

    fn record(uid: &str, vmm: Option<ProcessIdentity>) -> PodRecord {
        PodRecord {
            uid: uid.to_owned(),
            namespace: "default".to_owned(),
            name: uid.to_owned(),
            pod: Pod::default(),
            pull_secrets: Vec::new(),
            detached: false,
            released: false,
            client: None,
            supervisor: None,
            vmm,
        }
    }
}
