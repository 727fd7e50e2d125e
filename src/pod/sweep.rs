//! Releases what dead owners left behind. Every command that changes something sweeps first, but waits for no Pod: each
//! Pod that has lost its owner gets a process, which takes it over or releases it.

use std::collections::HashMap;
use std::process::Child;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::log_place::LogPlace;
use super::patience::{END_PATIENCE, KILL_PATIENCE, LOOK_INTERVAL};
use super::pod_update::has_finalizers;
use super::pod_version::PodVersions;
use super::{launch, release, supervisor_protocol};
use crate::privileged::Privileges;
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity, StatusRecord};

/// How long the recovery of all Pods may take in total: a hundred supervisors that start at once are slow.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(300);

/// Starts the release of the VMs, addresses, disks and sockets of all Pods without an owner, and starts a
/// supervisor for detached Pods that should still run. Does not wait for any of these.
///
/// # Errors
/// The first Pod or directory that could not be examined. A process that cannot release something reports that in the
/// supervisor's log; the next sweep tries again.
pub async fn sweep(paths: &Paths) -> anyhow::Result<()> {
    sweep_and_launch(paths).await.map(drop)
}

/// Runs [`sweep`], then waits until resources are released and supervisors have loaded their Pods. Returns an error for
/// each Pod that failed.
///
/// # Errors
/// See [`sweep`].
pub async fn recover(paths: &Paths) -> anyhow::Result<Vec<anyhow::Error>> {
    let start = Instant::now();
    let mut launched = sweep_and_launch(paths).await?;
    let records = PodRecords::new(paths.clone());
    let mut failures = Vec::new();
    for uid in records.uids()? {
        if let Err(error) = wait_until_settled(paths, &records, &uid, launched.remove(&uid), start).await {
            failures.push(error.context(format!("cannot recover or release Pod {uid}")));
        }
    }
    Ok(failures)
}

/// Waits until a Pod is released or has a supervisor, and starts a process for it if none is working on it.
async fn wait_until_settled(
    paths: &Paths,
    records: &PodRecords,
    uid: &str,
    mut process: Option<Child>,
    start: Instant,
) -> anyhow::Result<()> {
    loop {
        let record = match records.get(uid) {
            Ok(record) => record,
            // The sweep has warned about this Pod and skipped it.
            Err(_) => return Ok(()),
        };
        let is_settled = match &record {
            Some(record) if record.released => true,
            // Its owner is about to release it.
            Some(_) if records.is_hidden(uid) => false,
            Some(record) if record.detached => supervisor_protocol::connect(&paths.pod_run(uid)).is_ok(),
            Some(record) => !is_orphaned(record),
            // The Pod is being created or removed.
            None => !paths.pod_state(uid).exists() && !paths.pod_run(uid).exists(),
        };
        if is_settled {
            return Ok(());
        }
        match process.as_mut().map(Child::try_wait).transpose()? {
            Some(Some(exit)) if !exit.success() => {
                let log = LogPlace::new(paths, uid, record.as_ref());
                anyhow::bail!("its supervisor failed; see {log}");
            }
            Some(None) => {}
            // Either another command started the process, or it died.
            Some(Some(_)) | None => process = hand_over_or_release(paths, records, uid).await?,
        }
        if start.elapsed() > RECOVERY_PATIENCE {
            anyhow::bail!("no supervisor took over within {} s", RECOVERY_PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Waits until the name of a Pod is free, if that Pod ends with its command line or has lost its supervisor.
///
/// # Errors
/// If records cannot be read, or a resource of that Pod cannot be released.
pub async fn free_name(paths: &Paths, namespace: &str, name: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    let records = PodRecords::new(paths.clone());
    while let Some(record) = records.find(namespace, name)?.filter(is_orphaned) {
        if remove_ownerless(paths, &record.uid).await? || start.elapsed() > END_PATIENCE {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok(())
}

/// Whether a Pod has lost the command line or the supervisor that it needs: it has ended, or soon will.
fn is_orphaned(record: &PodRecord) -> bool {
    let has_client = record.client.as_ref().is_some_and(ProcessIdentity::is_alive);
    let has_lost_supervisor = record.supervisor.as_ref().is_some_and(|process| !process.is_alive());
    !record.detached && (!has_client || has_lost_supervisor)
}

/// Sweeps, and returns the processes that it started, by the UIDs of their Pods.
async fn sweep_and_launch(paths: &Paths) -> anyhow::Result<HashMap<String, Child>> {
    let mut launched = HashMap::new();
    let records = PodRecords::new(paths.clone());
    for uid in records.uids()? {
        match hand_over_or_release(paths, &records, &uid).await {
            Ok(Some(process)) => {
                launched.insert(uid, process);
            }
            Ok(None) => {}
            // The right action for a damaged record is unknown, and it may be repaired. A record of a newer microkube
            // is left to that version.
            Err(error) => tracing::warn!("skipped Pod {uid}: {error:#}"),
        }
    }
    Privileges::new(paths).sweep().await?;
    Ok(launched)
}

/// Starts a process for a Pod that has lost its owner; `None` if it has one, or nothing needs to be done.
async fn hand_over_or_release(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<Option<Child>> {
    if records.get(uid)?.is_some_and(|record| record.released) {
        return Ok(None);
    }
    let Some(mut lock) = records.claim(uid)? else {
        return Ok(None);
    };
    tracing::info!("recovering Pod {uid}, whose supervisor died");
    // Read the record again: only the lock keeps others from changing it.
    match records.get(uid)? {
        Some(record) if record.released => Ok(None),
        Some(record) => {
            records.refuse_newer(uid)?;
            let process = launch::start_supervisor(paths, &record, &mut lock, None, false)?;
            Ok(Some(process))
        }
        // Its creation or removal was interrupted, or something else removed the record.
        None => release_abandoned(paths, records, uid).await.map(|()| None),
    }
}

/// Whether a Pod that has lost its owner continues under a new one.
pub(super) fn continues_without_owner(records: &PodRecords, record: &PodRecord) -> bool {
    let has_ended = matches!(
        records.status(&record.uid),
        Ok(Some(status)) if status.is_terminal() && status.deletion_timestamp.is_none()
    );
    record.detached && !has_ended && !records.is_hidden(&record.uid)
}

/// Releases the host resources of a Pod that does not continue. A detached Pod stays in the records, unless it was
/// deleted by force. Called by its new owner, which then exits.
///
/// # Errors
/// If a resource cannot be released.
pub(super) async fn release_ended(paths: &Paths, records: &PodRecords, record: &PodRecord) -> anyhow::Result<()> {
    end_processes(paths, &record.uid, Some(record)).await?;
    let forget = !record.detached || records.is_hidden(&record.uid);
    release::release(paths, records, &record.uid, forget).await
}

/// Releases a Pod without an owner and removes its records, as `delete` does with a Pod that has ended. Returns whether
/// the Pod had no owner.
///
/// # Errors
/// If a resource cannot be released.
pub async fn remove_ownerless(paths: &Paths, uid: &str) -> anyhow::Result<bool> {
    let records = PodRecords::new(paths.clone());
    let Some(_lock) = records.claim(uid)? else {
        return Ok(false);
    };
    if let Some(record) = records.get(uid)? {
        records.refuse_newer(uid)?;
        if record.detached && has_finalizers(&record.pod) && !records.is_hidden(uid) {
            end_for_finalizers(paths, &records, &record).await?;
            return Ok(true);
        }
    }
    release_abandoned(paths, &records, uid).await?;
    Ok(true)
}

/// Ends a Pod whose records stay until its finalizers are removed, and marks it as deleted. The caller owns it.
async fn end_for_finalizers(paths: &Paths, records: &PodRecords, record: &PodRecord) -> anyhow::Result<()> {
    if !record.released {
        end_processes(paths, &record.uid, Some(record)).await?;
        release::release(paths, records, &record.uid, false).await?;
    }
    let mut status = records.status(&record.uid)?.unwrap_or_else(StatusRecord::pending);
    if !status.is_terminal() {
        status.status.phase = Some("Failed".to_owned());
    }
    if status.deletion_timestamp.is_none() {
        status.deletion_timestamp = Some(Time(jiff::Timestamp::now()));
        status.deletion_grace_period_seconds = Some(0);
    }
    PodVersions::new(paths).save_status(record, status)?;
    Ok(())
}

/// Removes a deleted Pod that has ended and has no finalizers any more. The caller owns it.
///
/// # Errors
/// If a resource cannot be released.
pub(super) async fn forget_ended(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    release_abandoned(paths, records, uid).await
}

async fn release_abandoned(paths: &Paths, records: &PodRecords, uid: &str) -> anyhow::Result<()> {
    end_processes(paths, uid, records.get(uid)?.as_ref()).await?;
    Privileges::new(paths).of_pod(uid)?.release().await?;
    PodVersions::new(paths).remove(uid)?;
    Ok(())
}

/// Ends all processes of a Pod, including those that are missing from its record.
async fn end_processes(paths: &Paths, uid: &str, record: Option<&PodRecord>) -> anyhow::Result<()> {
    let mut has_ended = true;
    // End the supervisor first: it could start another VMM.
    if let Some(supervisor) = record.and_then(|record| record.supervisor.clone()) {
        has_ended = tokio::task::spawn_blocking(move || supervisor.kill(KILL_PATIENCE)).await??;
    }
    let vmm = record.and_then(|record| record.vmm.clone());
    has_ended &= Privileges::new(paths).of_pod(uid)?.end_vmms(vmm, KILL_PATIENCE).await?;
    anyhow::ensure!(has_ended, "cannot kill all of its processes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::privileged::fake_vmm::fake_vmm;
    use crate::state::{PodRecord, ProcessIdentity};

    #[tokio::test]
    async fn only_a_pod_whose_owner_died_is_removed_with_its_processes() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = fake_vmm("dead", dir.path());
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
    async fn releasing_an_ended_pod_keeps_only_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = fake_vmm("ended", dir.path());
        let ended = PodRecord {
            detached: true,
            ..record("ended", ProcessIdentity::of(i32::try_from(vmm.id()).unwrap()))
        };
        drop(records.create(&ended).unwrap());
        assert!(continues_without_owner(&records, &ended));
        let disk = paths.pod_state("ended").join("scratch.img");
        std::fs::write(&disk, "").unwrap();

        release_ended(&paths, &records, &ended).await.unwrap();

        let released = records.get("ended").unwrap().unwrap();
        assert!(released.released && released.vmm.is_none());
        assert!(!disk.exists());
        vmm.wait().unwrap();
    }

    #[tokio::test]
    async fn a_force_deleted_pod_whose_supervisor_died_is_released_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let mut vmm = fake_vmm("forced", dir.path());
        let forced = PodRecord {
            detached: true,
            ..record("forced", ProcessIdentity::of(i32::try_from(vmm.id()).unwrap()))
        };
        drop(records.create(&forced).unwrap());
        assert!(continues_without_owner(&records, &forced));
        records.hide("forced").unwrap();
        assert!(!continues_without_owner(&records, &forced));
        // The sweep ignores another Pod with the same name.
        free_name(&paths, "default", "forced").await.unwrap();
        assert_eq!(records.uids().unwrap(), ["forced"]);

        release_ended(&paths, &records, &forced).await.unwrap();

        assert_eq!(records.uids().unwrap(), [""; 0]);
        vmm.wait().unwrap();
        assert!(!forced.vmm.unwrap().is_alive());
    }

    /// Time is paused in this test, and advances only when all tasks sleep.
    #[tokio::test(start_paused = true)]
    async fn a_sweep_does_not_wait_for_an_orphaned_pod_but_reusing_its_name_does() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let owner = records.create(&record("ending", None)).unwrap();
        let start = tokio::time::Instant::now();

        sweep(&paths).await.unwrap();
        free_name(&paths, "default", "another").await.unwrap();
        assert_eq!(start.elapsed(), Duration::ZERO);

        let name_is_free = async {
            free_name(&paths, "default", "ending").await.unwrap();
            assert_eq!(records.uids().unwrap(), [""; 0]);
        };
        let end = async {
            tokio::time::sleep(10 * LOOK_INTERVAL).await;
            drop(owner);
        };
        tokio::join!(name_is_free, end);
    }

    #[tokio::test(start_paused = true)]
    async fn recovery_waits_only_for_pods_being_released() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let attached = PodRecord {
            client: ProcessIdentity::current(),
            ..record("attached", None)
        };
        let _owner = records.create(&attached).unwrap();
        assert_eq!(recover(&paths).await.unwrap().len(), 0);

        let ending = records.create(&record("ending", None)).unwrap();
        let end = async {
            tokio::time::sleep(10 * LOOK_INTERVAL).await;
            records.remove("ending").unwrap();
            drop(ending);
        };
        let (failures, ()) = tokio::join!(recover(&paths), end);
        assert_eq!(failures.unwrap().len(), 0);
        assert_eq!(records.uids().unwrap(), ["attached"]);
    }

    #[tokio::test]
    async fn a_pod_with_an_unreadable_record_is_kept_until_the_record_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let record = PodRecord {
            detached: true,
            ..record("damaged", None)
        };
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

    #[tokio::test]
    async fn a_pod_with_any_record_of_a_newer_microkube_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let records = PodRecords::new(paths.clone());
        let record = PodRecord {
            detached: true,
            ..record("newer", None)
        };
        drop(records.create(&record).unwrap());
        for file in ["lifecycle.json", "events.json", "pod.json"] {
            let path = paths.pod_state("newer").join(file);
            let before = std::fs::read(&path).ok();
            std::fs::write(&path, r#"{"version": 2, "what": "ever"}"#).unwrap();
            let said = format!(
                "{} was written by a newer microkube, in format version 2; this one reads versions up to 1",
                path.display()
            );
            assert_eq!(
                hand_over_or_release(&paths, &records, "newer")
                    .await
                    .unwrap_err()
                    .to_string(),
                said
            );
            let error = remove_ownerless(&paths, "newer").await.unwrap_err();
            assert_eq!(error.to_string(), said);
            sweep(&paths).await.unwrap();
            assert!(path.exists());
            match before {
                Some(before) => std::fs::write(&path, before).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
        }
        assert_eq!(records.get("newer").unwrap(), Some(record));
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
