//! The process that drives one Pod: acquires its resources, starts its VM, carries out the lifecycle's decisions,
//! keeps the records, serves command lines, and releases everything at the end.
//!
//! `lifecycle` makes the decisions; this module does the I/O. `pod_run` is the main loop. Its parts are `images` (pulls
//! and protects them), `machine` (the VM), `machine_containers` (requests to its containers), `container_plans` and
//! `added_container` (how to start containers, and the images that are added to the VM), `container_config` and
//! `volumes` (the data that containers take from objects), `storage` (the limits of local storage), `handlers` (probes
//! and hooks), `record_keeper` (records on disk), `client_report` (reports to the attached command line) and `ending`
//! (the cause of the end). `server` and `session` serve command lines, which access the Pod through `pod_view`.

mod added_container;
mod admission;
mod claims;
mod client;
mod client_report;
mod clock;
mod container;
mod container_config;
mod container_plans;
mod ending;
mod handlers;
mod images;
mod machine;
mod machine_containers;
mod message;
mod order;
mod pending_resources;
mod pod_run;
mod pod_view;
mod record_keeper;
mod recovery;
mod running_machine;
mod server;
mod session;
mod storage;
mod supervised_pod;
mod volumes;

use tokio::sync::mpsc;

use self::client::ForegroundClient;
use self::ending::Outcome;
use self::pod_run::PodRun;
use super::release::release;
use super::supervisor_protocol::PodNotice;
use super::sweep;
use crate::pod::patience::KILL_PATIENCE;
use crate::privileged::{Privileges, VmmError};
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, ProcessIdentity};

/// The parameters of a supervisor.
#[derive(Debug)]
pub struct Supervisor {
    /// The directories of microkube's files.
    pub paths: Paths,
    pub record: PodRecord,
    /// The lock that proves that the Pod has an owner.
    pub lock: LockedFile,
    /// The attached command line; `None` for a detached Pod.
    pub client: Option<std::os::unix::net::UnixStream>,
    /// Whether to send the guest's log to the client.
    pub debug: bool,
}

impl Supervisor {
    /// Drives the Pod to its end. If the Pod has lost its owner and cannot continue, releases its resources.
    ///
    /// # Errors
    /// Fails only with errors that can be reported neither to the client nor in the records.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            paths,
            mut record,
            lock,
            client,
            debug,
        } = self;
        let records = PodRecords::new(paths.clone());
        // Check this before any resource of the Pod is changed or released.
        records.refuse_newer(&record.uid)?;
        if client.is_none() && !sweep::continues_without_owner(&records, &record) {
            return sweep::release_ended(&paths, &records, &record).await;
        }
        let (order_sender, orders) = mpsc::channel(16);
        let client = client
            .map(|stream| ForegroundClient::serve(stream, order_sender.clone()))
            .transpose()?;
        let frames = client.as_ref().map(ForegroundClient::frames);
        record.supervisor = ProcessIdentity::current();
        let uid = record.uid.clone();
        let attached = !record.detached;

        let run = PodRun::new(paths.clone(), record, frames, order_sender, debug).await;
        let has_run = run.is_ok();
        let ended = match run {
            Ok(run) => run.drive(orders).await,
            Err(error) => Err(error),
        };
        let outcome = ended.unwrap_or_else(|error| Outcome {
            exit_code: 1,
            error: Some(format!("{error:#}")),
            forget: attached,
        });
        if let Some(error) = &outcome.error {
            tracing::error!("{error}");
        }
        // A VM that could not be taken over, or did not end in time, still uses the Pod's address.
        let released = match end_machine(&paths, &records, &uid, has_run).await {
            Ok(()) => release(&paths, &records, &uid, outcome.forget).await,
            Err(error) => Err(error),
        };
        let error = match (outcome.error, released) {
            (None, Err(error)) => Some(format!("cannot release all resources of the Pod: {error:#}")),
            (error, _) => error,
        };
        // The Pod's name must be free before the end of the Pod is reported.
        drop(lock);
        if let Some(client) = client {
            client
                .finish(PodNotice::Finished {
                    exit_code: outcome.exit_code,
                    error,
                })
                .await;
        }
        Ok(())
    }
}

/// Ends the Pod's VM. No resource of the Pod may be released before that. After a run the VM is usually gone; if not,
/// the record has its process.
async fn end_machine(paths: &Paths, records: &PodRecords, uid: &str, has_run: bool) -> anyhow::Result<()> {
    let record = records.get(uid).unwrap_or_else(|error| {
        tracing::warn!("cannot tell which VM the Pod had: {error}");
        None
    });
    let vmm = record.and_then(|record| record.vmm);
    let privileges = Privileges::new(paths).of_pod(uid)?;
    let has_ended = match vmm {
        Some(vmm) if has_run => match privileges.kill_vmm(vmm, KILL_PATIENCE).await {
            // The record is wrong: its process does not belong to the Pod.
            Err(VmmError::NotOfPod(_)) => true,
            killed => killed?,
        },
        None if has_run => true,
        vmm => privileges.end_vmms(vmm, KILL_PATIENCE).await?,
    };
    anyhow::ensure!(has_ended, "cannot kill its VM");
    Ok(())
}
