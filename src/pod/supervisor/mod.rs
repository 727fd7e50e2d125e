//! The process that drives one Pod: prepares what it needs, starts its machine, carries out what the lifecycle decides, keeps the
//! records, serves command lines, and releases everything at the end.
//!
//! The decisions are in `lifecycle`; here is the I/O around them. `pod_run` is the loop. Its parts: `images` (pulled and held), `machine` (the
//! VM that is made or runs, and its containers), `handlers` (probes and hooks), `record_keeper` (the records on disk), `client_report` (what the
//! attached command line is told), `ending` (the cause of the end). `server` and `session` serve command lines, which see the Pod through
//! `pod_view`.

mod client;
mod client_report;
mod clock;
mod container;
mod ending;
mod handlers;
mod images;
mod machine;
mod message;
mod order;
mod pod_run;
mod pod_view;
mod record_keeper;
mod recovery;
mod running_machine;
mod server;
mod session;
mod supervised_pod;

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

/// What a supervisor is started with.
#[derive(Debug)]
pub struct Supervisor {
    /// Where microkube keeps its files.
    pub paths: Paths,
    /// The Pod.
    pub record: PodRecord,
    /// The lock that shows that the Pod has an owner.
    pub lock: LockedFile,
    /// The attached command line; none of a detached Pod.
    pub client: Option<std::os::unix::net::UnixStream>,
    /// Pass the guest's log on to the client.
    pub debug: bool,
}

impl Supervisor {
    /// Drives the Pod to its end. If the Pod has lost its owner and cannot go on, releases what is left.
    ///
    /// # Errors
    /// Only what neither the client nor the records can be told.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            paths,
            mut record,
            lock,
            client,
            debug,
        } = self;
        let records = PodRecords::new(paths.clone());
        // Before anything of the Pod is changed or released.
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
        // A machine that could not be taken over, or did not end in time, still has the Pod's address.
        let released = match end_machine(&paths, &records, &uid, has_run).await {
            Ok(()) => release(&paths, &records, &uid, outcome.forget).await,
            Err(error) => Err(error),
        };
        let error = match (outcome.error, released) {
            (None, Err(error)) => Some(format!("cannot release everything of the Pod: {error:#}")),
            (error, _) => error,
        };
        // The Pod's name must be free again before anybody is told that the Pod is over.
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

/// Ends the Pod's virtual machine: before that, nothing of the Pod may be released. After a run it is mostly gone; if not, the record names it.
async fn end_machine(paths: &Paths, records: &PodRecords, uid: &str, has_run: bool) -> anyhow::Result<()> {
    let record = records.get(uid).unwrap_or_else(|error| {
        tracing::warn!("which virtual machine the Pod had is not known: {error}");
        None
    });
    let vmm = record.and_then(|record| record.vmm);
    let privileges = Privileges::new(paths).of_pod(uid)?;
    let has_ended = match vmm {
        Some(vmm) if has_run => match privileges.kill_vmm(vmm, KILL_PATIENCE).await {
            // The record is wrong: the process it names is not the Pod's.
            Err(VmmError::NotOfPod(_)) => true,
            killed => killed?,
        },
        None if has_run => true,
        vmm => privileges.end_vmms(vmm, KILL_PATIENCE).await?,
    };
    anyhow::ensure!(has_ended, "its virtual machine does not end");
    Ok(())
}
