//! Keeps a Pod's records on disk true to its lifecycle.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;

use crate::pod::lifecycle::{Lifecycle, PodEvent, Time};
use crate::state::{EventLog, PodRecord, PodRecords, StatusRecord, read_json, replace_file};

/// Name of the lifecycle's record among the Pod's.
const LIFECYCLE_FILE: &str = "lifecycle.json";

/// What was last written, so that nothing is written twice.
#[derive(Debug)]
pub struct RecordKeeper {
    records: PodRecords,
    uid: String,
    lifecycle_path: PathBuf,
    /// Whether there will be a next supervisor to read the lifecycle.
    recoverable: bool,
    lifecycle: Vec<u8>,
    status: Option<StatusRecord>,
    events: EventLog,
}

impl RecordKeeper {
    /// For the Pod whose state directory this is.
    pub fn new(records: PodRecords, uid: &str, directory: PathBuf, recoverable: bool) -> anyhow::Result<Self> {
        let events = EventLog::open(&records.events_path(uid)).context("cannot read the Pod's events")?;
        let events = events.lasting(records.lifetime(uid));
        Ok(Self {
            records,
            uid: uid.to_owned(),
            lifecycle_path: directory.join(LIFECYCLE_FILE),
            recoverable,
            lifecycle: Vec::new(),
            status: None,
            events,
        })
    }

    /// The lifecycle as a supervisor before this one left it.
    pub fn restore(&self) -> anyhow::Result<Option<Lifecycle>> {
        Ok(read_json(&self.lifecycle_path)?)
    }

    /// Writes what has changed. To be called before anything is done about it.
    pub async fn keep(&mut self, lifecycle: &Lifecycle, now: Time) -> anyhow::Result<()> {
        if self.recoverable {
            let content = serde_json::to_vec(lifecycle).context("cannot write the Pod's lifecycle down")?;
            if content != self.lifecycle {
                let (path, bytes) = (self.lifecycle_path.clone(), content.clone());
                tokio::task::spawn_blocking(move || replace_file(&path, &bytes)).await??;
                self.lifecycle = content;
            }
        }
        let status = status_record(lifecycle, now);
        if self.status.as_ref() != Some(&status) {
            let (records, uid, copy) = (self.records.clone(), self.uid.clone(), status.clone());
            tokio::task::spawn_blocking(move || records.save_status(&uid, &copy)).await??;
            self.status = Some(status);
        }
        Ok(())
    }

    /// Notes as the first of all events that the Pod is on this host. That is the scheduler's word, not the kubelet's: the lifecycle
    /// begins with a Pod that has a host. A supervisor that takes a Pod over finds it noted.
    pub fn note_scheduled(&mut self, record: &PodRecord, node_name: &str) {
        if !self.events.list().is_empty() {
            return;
        }
        let scheduled = PodEvent {
            warning: false,
            reason: "Scheduled",
            message: format!(
                "Successfully assigned {}/{} to {node_name}",
                record.namespace, record.name
            ),
            container: None,
        };
        self.add(&scheduled, None);
    }

    /// Adds an event to the Pod's.
    pub fn add(&mut self, event: &PodEvent, field_path: Option<String>) {
        let now = SystemTime::now();
        let added = self
            .events
            .add(event.warning, event.reason, &event.message, field_path, now);
        if let Err(error) = added {
            tracing::warn!("an event cannot be kept: {error}");
        }
    }
}

fn status_record(lifecycle: &Lifecycle, now: Time) -> StatusRecord {
    let deletion = lifecycle.deletion();
    StatusRecord {
        status: lifecycle.status(now),
        deletion_timestamp: deletion.map(|(at, _)| super::pod_run::timestamp(at)),
        deletion_grace_period_seconds: deletion.map(|(_, grace)| i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Paths;

    #[test]
    fn a_pod_is_scheduled_before_anything_else_and_once_for_all_its_supervisors() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        let record: PodRecord = serde_json::from_value(serde_json::json!({
            "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
            "pod": { "apiVersion": "v1", "kind": "Pod", "metadata": {} },
        }))
        .unwrap();
        let records = PodRecords::new(paths.clone());
        drop(records.create(&record).unwrap());
        let pulling = PodEvent {
            warning: false,
            reason: "Pulling",
            message: "Pulling image".to_owned(),
            container: None,
        };
        // The first supervisor dies before anything else has happened, the second one after that.
        for events in [&[][..], &[pulling], &[]] {
            let mut keeper = RecordKeeper::new(records.clone(), "u", paths.pod_state("u"), true).unwrap();
            keeper.note_scheduled(&record, "host-1");
            events.iter().for_each(|event| keeper.add(event, None));
        }
        let events = records.events("u").unwrap();
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                (
                    event.warning,
                    event.reason.as_str(),
                    event.message.as_str(),
                    event.count,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (false, "Scheduled", "Successfully assigned shop/web to host-1", 1),
                (false, "Pulling", "Pulling image", 1),
            ]
        );
    }
}
