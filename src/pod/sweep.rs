//! Releases what dead owners left behind. Every command that changes something sweeps before it does its own work, and waits for no
//! Pod over it: each that has lost its owner gets a process of its own, which takes it over or releases it.

use std::os::fd::AsFd;
use std::process::Child;
use std::time::{Duration, Instant};

use super::{attach, launch, supervisor, virtual_machine};
use crate::network;
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity};

/// How long a killed process may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// How long a supervisor may take to end a Pod whose command line was killed: longer than the lifecycle's own patience.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What cannot be waited for otherwise (a lock with a limit, somebody who begins to listen) is looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Has the machines, addresses, disks and sockets of all Pods without an owner released; detached Pods that should still run get a
/// supervisor again. Does not wait for any of it.
///
/// # Errors
/// The first thing that could not be looked at. What cannot be released is left to the next sweep, with a warning.
pub async fn sweep(paths: &Paths) -> anyhow::Result<()> {
    sweep_and_launch(paths).await.map(drop)
}

/// [`sweep`], and waits until what can be released is, and the new supervisors know their Pods. Pods whose command line was killed are
/// waited for, too: their supervisors end them.
///
/// # Errors
/// As [`sweep`].
pub async fn recover(paths: &Paths) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut launched = sweep_and_launch(paths).await?;
    let records = PodRecords::new(paths.clone());
    let ending: Vec<_> = records.list()?.into_iter().filter(is_without_client).collect();
    for record in &ending {
        while !records.is_abandoned(&record.uid)? && start.elapsed() < END_PATIENCE {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
    if !ending.is_empty() {
        launched.extend(sweep_and_launch(paths).await?);
    }
    for (record, mut process) in launched {
        let exit = loop {
            match process.try_wait()? {
                Some(exit) => break Some(exit),
                None if attach::connect(&paths.pod_run(&record.uid)).is_ok() => break None,
                None if start.elapsed() > END_PATIENCE => {
                    anyhow::bail!("the supervisor of Pod {} does not answer", record.uid)
                }
                None => tokio::time::sleep(LOOK_INTERVAL).await,
            }
        };
        if exit.is_some_and(|exit| !exit.success()) {
            let log = launch::supervisor_log(paths, &record);
            tracing::warn!("Pod {} cannot be taken care of: see {}", record.uid, log.display());
        }
    }
    Ok(())
}

/// Frees the name of a Pod whose command line was killed: its supervisor is ending it, which is waited for.
///
/// # Errors
/// When records cannot be read, or something of that Pod cannot be released.
pub async fn make_way(paths: &Paths, namespace: &str, name: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let records = PodRecords::new(paths.clone());
    while let Some(record) = records.find(namespace, name)?.filter(is_without_client) {
        if remove_ownerless(paths, &record.uid).await? || start.elapsed() > END_PATIENCE {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Whether a Pod ended with its command line, or is about to.
fn is_without_client(record: &PodRecord) -> bool {
    !record.detached && !record.client.as_ref().is_some_and(ProcessIdentity::is_alive)
}

/// Returns the processes that were started, each with its Pod.
async fn sweep_and_launch(paths: &Paths) -> anyhow::Result<Vec<(PodRecord, Child)>> {
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
        let Some(lock) = records.claim(&uid)? else {
            continue;
        };
        tracing::info!("taking care of what the dead supervisor of Pod {uid} left behind");
        // Read again: only now nobody else changes it.
        let taken = match records.get(&uid) {
            Ok(Some(record)) if record.released => Ok(()),
            Ok(Some(record)) => launch::start_supervisor(paths, &record, lock.as_fd(), None, false)
                .map(|process| launched.push((record, process))),
            // Its creation or removal was cut off: there is no process that had to be waited for.
            Ok(None) => forget(paths, &records, &uid).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = taken {
            tracing::warn!("Pod {uid} cannot be released: {error:#}");
        }
    }
    let live: std::collections::HashSet<_> = records.uids()?.into_iter().collect();
    network::sweep(&paths.network(), |uid| live.contains(uid)).await?;
    Ok(launched)
}

/// Whether a Pod that has lost its owner goes on with another.
pub(super) fn goes_on(records: &PodRecords, record: &PodRecord) -> bool {
    let has_ended = matches!(
        records.status(&record.uid),
        Ok(Some(status)) if status.is_terminal() && status.deletion_timestamp.is_none()
    );
    record.detached && !has_ended
}

/// Releases what a Pod that does not go on has of the host; a detached one stays in the records. Called by its new owner, who is to
/// end then.
///
/// # Errors
/// When something of it cannot be released.
pub(super) async fn release_ended(paths: &Paths, records: &PodRecords, record: PodRecord) -> anyhow::Result<()> {
    let uid = record.uid.clone();
    if !record.detached {
        return release_abandoned(paths, records, &uid).await;
    }
    end_processes(&record).await?;
    network::release(&paths.network(), &uid).await?;
    supervisor::release_files(paths, &uid)?;
    // Whoever waits for the Pod's owner is to wait for this process.
    let supervisor = ProcessIdentity::current();
    records.save(&PodRecord { supervisor, ..record }.into_released())?;
    Ok(())
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

async fn release_abandoned(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    if let Some(record) = records.get(uid)? {
        end_processes(&record).await?;
    }
    forget(paths, records, uid).await
}

async fn forget(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
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
    async fn a_pod_whose_owner_died_is_removed_with_its_processes_and_one_that_has_an_owner_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = ProcessIdentity::of(i32::try_from(vmm.id()).unwrap());
        drop(records.create(&record("dead", identity.clone())).unwrap());
        let _owned = records.create(&record("alive", None)).unwrap();

        assert!(remove_ownerless(&paths, "dead").await.unwrap());
        assert!(!remove_ownerless(&paths, "alive").await.unwrap());

        assert_eq!(records.uids().unwrap(), ["alive"]);
        vmm.wait().unwrap();
        assert!(!identity.unwrap().is_alive());
    }

    #[tokio::test]
    async fn an_ended_pod_that_stays_in_the_records_has_nothing_else_when_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let ended = PodRecord {
            detached: true,
            ..record("ended", ProcessIdentity::of(i32::try_from(vmm.id()).unwrap()))
        };
        drop(records.create(&ended).unwrap());
        assert!(goes_on(&records, &ended));
        let disk = paths.pod_state("ended").join("scratch.img");
        std::fs::write(&disk, "").unwrap();

        release_ended(&paths, &records, ended).await.unwrap();

        let released = records.get("ended").unwrap().unwrap();
        assert!(released.released && released.vmm.is_none());
        assert!(!disk.exists());
        vmm.wait().unwrap();
    }

    /// Time stands still here unless somebody sleeps.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_does_not_wait_for_the_end_of_a_pod_whose_command_line_was_killed_but_its_name_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let owner = records.create(&record("ending", None)).unwrap();
        let start = tokio::time::Instant::now();

        sweep(&paths).await.unwrap();
        make_way(&paths, "default", "another").await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);

        let name_is_free = async {
            make_way(&paths, "default", "ending").await.unwrap();
            assert_eq!(records.uids().unwrap(), [""; 0]);
        };
        let end = async {
            tokio::time::sleep(10 * LOOK_INTERVAL).await;
            drop(owner);
        };
        tokio::join!(name_is_free, end);
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
