//! Records of Pods in a temporary directory, and simulated supervisors, for tests of operations and verbs.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use microkube_manifest::Input;
use serde_json::json;
use tokio::net::UnixStream;

use super::pod_version::PodVersions;
use super::supervisor_protocol::{Greeting, Notice, SupervisorFrame, SupervisorRequest, read_frame, write_frame};
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, StatusRecord};

/// The directories, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TestPods {
    _dir: tempfile::TempDir,
    pub(crate) paths: Paths,
    pub(crate) records: PodRecords,
}

/// Creation time of all these Pods.
pub(crate) const CREATED: &str = "2026-11-21T10:00:00Z";

impl TestPods {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        paths.create().unwrap();
        Self {
            records: PodRecords::new(paths.clone()),
            paths,
            _dir: dir,
        }
    }

    /// Adds a Pod without status and owner; returns its UID.
    pub(crate) fn add(&self, name: &str, labels: &[(&str, &str)]) -> String {
        self.add_to("default", name, labels)
    }

    pub(crate) fn add_to(&self, namespace: &str, name: &str, labels: &[(&str, &str)]) -> String {
        let labels: serde_json::Map<_, _> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        self.add_pod(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": namespace, "labels": labels },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        }))
    }

    /// Adds a Pod with this manifest; returns its UID.
    pub(crate) fn add_pod(&self, manifest: &serde_json::Value) -> String {
        self.add_owned(manifest).0
    }

    /// Adds a Pod that has ended; returns its UID.
    pub(crate) fn add_ended(&self, manifest: &serde_json::Value) -> String {
        let (uid, _lock) = self.add_owned(manifest);
        let record = self.records.get(&uid).unwrap().unwrap();
        self.records.save(&record.into_released()).unwrap();
        self.set_status(&uid, json!({ "phase": "Succeeded" }));
        uid
    }

    /// Adds a Pod with an owner, as long as the lock is held.
    pub(crate) fn add_owned(&self, manifest: &serde_json::Value) -> (String, LockedFile) {
        let mut record = record_of(manifest);
        let lock = self.versions().create(&mut record).unwrap();
        (record.uid, lock)
    }

    /// Sets a Pod's status, given as in the API.
    pub(crate) fn set_status(&self, uid: &str, status: serde_json::Value) {
        let record = StatusRecord {
            status: serde_json::from_value::<PodStatus>(status).unwrap(),
            ..StatusRecord::default()
        };
        self.save_status(uid, record);
    }

    /// Replaces a Pod's status, as its supervisor does.
    pub(crate) fn save_status(&self, uid: &str, status: StatusRecord) {
        let record = self.records.get(uid).unwrap().unwrap();
        self.versions().save_status(&record, status).unwrap();
    }

    /// Hides a Pod, as its supervisor does when it is deleted by force.
    pub(crate) fn hide(&self, uid: &str) {
        self.versions().hide(uid).unwrap();
    }

    /// Removes a Pod.
    pub(crate) fn remove(&self, uid: &str) {
        self.versions().remove(uid).unwrap();
    }

    fn versions(&self) -> PodVersions {
        PodVersions::new(&self.paths)
    }
}

/// Reads a command line's request to a supervisor that a test simulates; answers a greeting first.
pub(crate) async fn asked(stream: &mut UnixStream) -> Option<SupervisorRequest> {
    while let Some(SupervisorFrame::Request(request)) = read_frame(stream).await.unwrap() {
        let SupervisorRequest::Hello(_) = request else {
            return Some(request);
        };
        let hello = SupervisorFrame::Notice(Notice::Hello(Greeting::own()));
        write_frame(stream, &hello).await.unwrap();
    }
    None
}

/// A manifest of a Pod with one container.
pub(crate) fn manifest(name: &str, image: &str, command: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name },
        "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": image, "command": [command] }] },
    })
}

pub(crate) fn record_of(manifest: &serde_json::Value) -> PodRecord {
    let text = manifest.to_string();
    let mut pods = microkube_manifest::load(&[Input {
        source: "test",
        text: text.as_bytes(),
    }])
    .unwrap()
    .pods;
    let mut pod: Pod = pods.remove(0);
    let uid = uuid::Uuid::new_v4().to_string();
    pod.metadata.uid = Some(uid.clone());
    pod.metadata.creation_timestamp = Some(Time(CREATED.parse().unwrap()));
    PodRecord {
        uid,
        namespace: pod.metadata.namespace.clone().unwrap(),
        name: pod.metadata.name.clone().unwrap(),
        pod,
        pull_secrets: Vec::new(),
        detached: true,
        released: false,
        client: None,
        supervisor: None,
        vmm: None,
    }
}
