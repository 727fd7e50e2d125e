//! Keeps a Pod's records on disk in step with its lifecycle.

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::jiff::Timestamp;

use crate::pod::lifecycle::{Lifecycle, PodEvent, Time};
use crate::pod::pod_version::PodVersions;
use crate::state::{
    EventLog, POD_RECORDS_VERSION, Paths, PodRecord, PodRecords, ProcessIdentity, RecordFormat, StatusRecord,
    encode_record, read_record, replace_file,
};

/// The reason of the scheduler's event.
const SCHEDULED: &str = "Scheduled";
/// Name of the lifecycle's file among the Pod's records.
const LIFECYCLE_FILE: &str = "lifecycle.json";

impl RecordFormat for Lifecycle {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

/// The last written content, to avoid writing it again.
#[derive(Debug)]
pub struct RecordKeeper {
    records: PodRecords,
    /// The Pod's own record.
    record: PodRecord,
    lifecycle_path: PathBuf,
    lifecycle: Vec<u8>,
    status: Option<StatusRecord>,
    events: EventLog,
    versions: PodVersions,
}

impl RecordKeeper {
    /// Records that this process is the Pod's supervisor, and reads the Pod's events and status.
    ///
    /// # Errors
    /// If the events cannot be read.
    pub fn new(paths: &Paths, record: PodRecord) -> anyhow::Result<Self> {
        let records = PodRecords::new(paths.clone());
        save(&records, &record);
        let uid = &record.uid;
        let events = EventLog::open(&records.events_path(uid)).context("cannot read the Pod's events")?;
        let events = events.lasting(records.lifetime(uid));
        // A status that is damaged, or that watches have missed, is written again.
        let status = records.status(uid).unwrap_or_default();
        let status = status.filter(|status| status.resource_version.is_some());
        let status = status.map(|status| StatusRecord {
            resource_version: None,
            ..status
        });
        Ok(Self {
            lifecycle_path: paths.pod_state(uid).join(LIFECYCLE_FILE),
            records,
            record,
            lifecycle: Vec::new(),
            status,
            events,
            versions: PodVersions::new(paths),
        })
    }

    /// Records the VMM of the Pod's VM. Without this, the VM is found by the Pod's UID among the VMM's
    /// arguments.
    pub fn note_vmm(&mut self, vmm: Option<ProcessIdentity>) {
        self.record.vmm = vmm;
        save(&self.records, &self.record);
    }

    /// The lifecycle as the previous supervisor left it.
    pub fn restore(&self) -> anyhow::Result<Option<Lifecycle>> {
        Ok(read_record(&self.lifecycle_path)?)
    }

    /// Writes the records that have changed. Call this before acting on the change.
    pub async fn keep(&mut self, lifecycle: &Lifecycle, now: Time) -> anyhow::Result<()> {
        // A later supervisor reads the lifecycle.
        if self.record.detached {
            let content = encode_record(lifecycle).context("cannot encode the Pod's lifecycle")?;
            if content != self.lifecycle {
                let (path, bytes) = (self.lifecycle_path.clone(), content.clone());
                tokio::task::spawn_blocking(move || replace_file(&path, &bytes)).await??;
                self.lifecycle = content;
            }
        }
        let status = status_record(lifecycle, now);
        if self.status.as_ref() != Some(&status) {
            let (versions, copy, record) = (self.versions.clone(), status.clone(), self.record.clone());
            tokio::task::spawn_blocking(move || versions.save_status(&record, copy)).await??;
            self.status = Some(status);
        }
        Ok(())
    }

    /// Records a change of the Pod. Returns the Pod with its new version.
    pub async fn change(&mut self, pod: Pod) -> anyhow::Result<Pod> {
        let versions = self.versions.clone();
        let mut record = PodRecord {
            pod,
            ..self.record.clone()
        };
        let saving = tokio::task::spawn_blocking(move || {
            versions.save(&mut record)?;
            anyhow::Ok(record)
        });
        match saving.await? {
            Ok(record) => {
                self.record = record;
                Ok(self.record.pod.clone())
            }
            Err(error) => self.settle(error).await,
        }
    }

    /// Finds out whether a change was made despite an error. If only the directory of the record could not be synced,
    /// readers see the changed Pod, so the change counts.
    async fn settle(&mut self, error: anyhow::Error) -> anyhow::Result<Pod> {
        let (records, uid) = (self.records.clone(), self.record.uid.clone());
        let read = tokio::task::spawn_blocking(move || records.get(&uid)).await?;
        let version = &self.record.pod.metadata.resource_version;
        match read {
            Ok(Some(read)) if read.pod.metadata.resource_version != *version => {
                tracing::error!("a change of the Pod may not survive a power cut: {error:#}");
                self.record.pod = read.pod;
                Ok(self.record.pod.clone())
            }
            _ => Err(error),
        }
    }

    /// Records as the first event that the Pod is assigned to this host. In Kubernetes this event comes from the
    /// scheduler, not the kubelet, so the lifecycle does not emit it. A supervisor that takes a Pod over finds the
    /// event already recorded.
    pub fn note_scheduled(&mut self, node_name: &str) {
        if self.events.list().iter().any(|event| event.reason == SCHEDULED) {
            return;
        }
        let scheduled = PodEvent {
            warning: false,
            reason: SCHEDULED,
            message: format!(
                "Successfully assigned {}/{} to {node_name}",
                self.record.namespace, self.record.name
            ),
            container: None,
        };
        self.add(&scheduled, None);
    }

    /// Adds an event to the Pod's events.
    pub fn add(&mut self, event: &PodEvent, field_path: Option<String>) {
        let now = SystemTime::now();
        let added = self
            .events
            .add(event.warning, event.reason, &event.message, field_path, now);
        if let Err(error) = added {
            tracing::warn!("cannot save an event: {error}");
        }
    }
}

fn save(records: &PodRecords, record: &PodRecord) {
    if let Err(error) = records.save(record) {
        // A full disk does not end a running Pod.
        tracing::error!("cannot write the Pod's record: {error}");
    }
}

/// Converts a time to Kubernetes' format, in whole seconds as in records.
pub fn timestamp(time: Time) -> meta::Time {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    meta::Time(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX))
}

fn status_record(lifecycle: &Lifecycle, now: Time) -> StatusRecord {
    let deletion = lifecycle.deletion();
    StatusRecord {
        status: lifecycle.status(now),
        deletion_timestamp: deletion.map(|(at, _)| timestamp(at)),
        deletion_grace_period_seconds: deletion.map(|(_, grace)| i64::try_from(grace.as_secs()).unwrap_or(i64::MAX)),
        resource_version: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::pod::lifecycle::{ContainerAttempt, Event, Exit, Hook, HookOutcome, ImageUse, ProbeKind, ProbeOutcome};
    use crate::pod::test_pods::TestPods;
    use crate::state::MAX_RECORD_BYTES;

    #[test]
    fn a_pod_is_scheduled_first_and_only_once_across_supervisors() {
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
        // The first supervisor dies before any other event, the second one after that.
        for events in [&[][..], &[pulling], &[]] {
            let mut keeper = RecordKeeper::new(&paths, record.clone()).unwrap();
            keeper.note_scheduled("host-1");
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

    #[tokio::test]
    async fn a_takeover_gives_the_same_status_no_new_version() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let record = pods.records.get(&uid).unwrap().unwrap();
        // Times in records are whole seconds.
        let now = Time::from_millis(1_700_000_000_250);
        let mut lifecycle = Lifecycle::new(&record.pod, now);
        let deleted = Event::TerminateRequested {
            grace: None,
            deletion: true,
        };
        let mut last = None;
        for event in [Event::Begin, deleted] {
            lifecycle.step(now, event);
            let mut versions = Vec::new();
            for _supervisor in 0..2 {
                let mut keeper = RecordKeeper::new(&pods.paths, record.clone()).unwrap();
                keeper.keep(&lifecycle, now).await.unwrap();
                versions.push(pods.records.status(&uid).unwrap().unwrap().resource_version);
            }
            assert!(versions[0].is_some() && versions[0] != last, "the status has changed");
            assert_eq!(versions[0], versions[1]);
            last = versions.pop().flatten();
        }
    }

    #[tokio::test]
    async fn a_change_that_readers_see_counts_despite_an_error() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let record = pods.records.get(&uid).unwrap().unwrap();
        let mut keeper = RecordKeeper::new(&pods.paths, record.clone()).unwrap();
        let error = keeper.settle(anyhow::anyhow!("cannot write")).await.unwrap_err();
        assert_eq!(error.to_string(), "cannot write");
        assert_eq!(keeper.record.pod, record.pod);

        let mut changed = record;
        let labels = changed.pod.metadata.labels.get_or_insert_default();
        labels.insert("app".to_owned(), "shop".to_owned());
        PodVersions::new(&pods.paths).save(&mut changed).unwrap();
        let settled = keeper.settle(anyhow::anyhow!("cannot sync")).await.unwrap();
        assert_eq!(settled, changed.pod);
        keeper.note_vmm(None);
        let read = pods.records.get(&uid).unwrap().unwrap();
        assert_eq!(read.pod, changed.pod, "the old Pod does not come back");
    }

    /// More containers than an agent keeps.
    const MANY_CONTAINERS: u64 = 512;

    /// Text that a hostile guest, registry or VMM may send.
    fn hostile_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "(?s).{0,40}",
            // The longest possible message, of the character that JSON encodes longest.
            Just("\u{1}".repeat(4 << 20)),
            Just("\u{10ffff}\"\\\n".repeat(100_000)),
        ]
    }

    fn hostile_event(text: String, kind: u8, number: u32) -> Event {
        let attempt = ContainerAttempt::new(0, number);
        match kind {
            0 => Event::ContainerStartFailed {
                attempt,
                reason: "StartError".to_owned(),
                message: text,
            },
            1 => Event::ContainerExited {
                attempt,
                exit: Exit::of_process(1, 0, false).with_message(text),
            },
            2 => Event::ContainerStarted {
                attempt,
                container_id: text,
                user: None,
            },
            3 => Event::HookEnded {
                attempt,
                hook: Hook::PostStart,
                outcome: HookOutcome::Failure(text),
            },
            4 => Event::ProbeEnded {
                attempt,
                probe: ProbeKind::Liveness,
                outcome: ProbeOutcome::Failure(text),
            },
            5 => Event::SandboxLost { message: text },
            6 => Event::ImageFailed {
                of: ImageUse::Container(0),
                reason: "ErrImagePull".to_owned(),
                message: text,
            },
            _ => Event::ContainerStartFailed {
                attempt,
                reason: "CreateContainerError".to_owned(),
                message: text,
            },
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn records_survive_any_guest_data(
            said in proptest::collection::vec((hostile_text(), 0_u8..8, 0_u32..3), 1..12),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
            let record: PodRecord = serde_json::from_value(serde_json::json!({
                "uid": "u", "namespace": "shop", "name": "web", "client": null, "supervisor": null, "vmm": null,
                "detached": true,
                "pod": {
                    "apiVersion": "v1", "kind": "Pod", "metadata": {},
                    "spec": { "restartPolicy": "Always", "containers": [{
                        "name": "web", "image": "i",
                        "livenessProbe": { "tcpSocket": { "port": 80 } },
                        "lifecycle": { "postStart": { "exec": { "command": ["true"] } } },
                    }] },
                },
            }))
            .unwrap();
            let records = PodRecords::new(paths.clone());
            drop(records.create(&record).unwrap());
            let mut keeper = RecordKeeper::new(&paths, record.clone()).unwrap();
            let mut now = Time::from_secs(1_700_000_000);
            let mut lifecycle = Lifecycle::new(&record.pod, now);
            let ready = [
                Event::Begin,
                Event::ImageReady { of: ImageUse::Container(0), image_id: String::new() },
                Event::SandboxReady { pod_ip: String::new(), host_ip: String::new() },
            ];
            let said = said.into_iter().map(|(text, kind, number)| hostile_event(text, kind, number));
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for event in ready.into_iter().chain(said) {
                for action in lifecycle.step(now, event) {
                    if let crate::pod::lifecycle::Action::Emit(event) = action {
                        keeper.add(&event, None);
                    }
                }
                runtime.block_on(keeper.keep(&lifecycle, now)).unwrap();
                now += std::time::Duration::from_secs(400);
                lifecycle.step(now, Event::DeadlineReached);
            }
            runtime.block_on(keeper.keep(&lifecycle, now)).unwrap();
            prop_assert_eq!(keeper.restore().unwrap(), Some(lifecycle));
            let status = records.status("u").unwrap().map(|status| StatusRecord { resource_version: None, ..status });
            prop_assert_eq!(status, keeper.status.clone());
            prop_assert_eq!(records.events("u").unwrap(), keeper.events.list());
            for file in ["lifecycle.json", "status.json"] {
                let bytes = std::fs::metadata(paths.pod_state("u").join(file)).unwrap().len();
                prop_assert!(bytes <= MAX_RECORD_BYTES / MANY_CONTAINERS, "{file} has {bytes} bytes for one container");
            }
        }
    }
}
