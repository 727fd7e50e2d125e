//! The process that drives one Pod: prepares what it needs, starts its machine, carries out what the lifecycle decides, keeps the
//! records, serves command lines, and releases everything at the end.
//!
//! The decisions are in `lifecycle`; here is the I/O around them. `pod_run` is the loop; `actions` are its hands.

mod actions;
mod client;
mod container;
mod machine;
mod pod_run;
mod record_keeper;
mod recovery;
mod server;
mod session;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use self::client::Client;
use self::pod_run::PodRun;
use super::attach::Notice;
use super::{prepare, sweep};
use crate::network;
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, ProcessIdentity};
use crate::volume;

/// How long one call of the agent may take that does not wait for anything.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// What a supervisor is started with.
#[derive(Debug)]
pub struct Supervisor {
    /// Where microkube keeps its files.
    pub paths: Paths,
    /// The Pod.
    pub record: PodRecord,
    /// Says that the Pod has an owner.
    pub lock: LockedFile,
    /// The attached command line; none of a detached Pod.
    pub client: Option<std::os::unix::net::UnixStream>,
    /// Pass the guest's log on to the client.
    pub debug: bool,
}

/// What command lines want of the Pod as a whole.
#[derive(Debug)]
enum Order {
    Terminate {
        grace: Option<Duration>,
        deletion: bool,
        /// Told when the records say so.
        noted: Option<oneshot::Sender<()>>,
    },
    Kill,
}

/// How a Pod ended, for `run`.
#[derive(Debug)]
struct Outcome {
    exit_code: u8,
    error: Option<String>,
    /// Whether its records go with it.
    forget: bool,
}

impl Supervisor {
    /// Drives the Pod to its end. Of one that has lost its owner and does not go on, releases what is left.
    ///
    /// # Errors
    /// Only what leaves nobody to tell: everything else reaches the client, or is in the records.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self {
            paths,
            mut record,
            lock,
            client,
            debug,
        } = self;
        let records = PodRecords::new(paths.clone());
        if client.is_none() && !sweep::goes_on(&records, &record) {
            return sweep::release_ended(&paths, &records, &record).await;
        }
        let (order_sender, orders) = mpsc::channel(16);
        let client = client
            .map(|stream| Client::attach(stream, order_sender.clone()))
            .transpose()?;
        let frames = client.as_ref().map(Client::frames);
        record.supervisor = ProcessIdentity::current();
        let uid = record.uid.clone();
        let attached = !record.detached;

        let ended = match PodRun::new(paths.clone(), record, frames, order_sender, debug).await {
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
        let released = release(&paths, &records, &uid, outcome.forget).await;
        let error = match (outcome.error, released) {
            (None, Err(error)) => Some(format!("cannot release everything of the Pod: {error:#}")),
            (error, _) => error,
        };
        // Nothing may say that the Pod is over before its name is free again.
        drop(lock);
        if let Some(client) = client {
            client
                .finish(Notice::Finished {
                    exit_code: outcome.exit_code,
                    error,
                })
                .await;
        }
        Ok(())
    }
}

/// Releases what the Pod has of the host; with `forget` its records too.
pub(super) async fn release(paths: &Paths, records: &PodRecords, uid: &str, forget: bool) -> anyhow::Result<()> {
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
    let state = paths.pod_state(uid);
    volume::remove_scratch_disk(&prepare::scratch_path(paths, uid))?;
    for path in [
        prepare::vsock_path(paths, uid),
        paths.supervisor_socket(uid),
        state.join(machine::PLAN_FILE),
    ] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
