//! Pods as objects of the node's store. Supervisors own the records, whose versions come from the store.

use std::error::Error;

use k8s_openapi::api::core::v1::Pod;
use microkube_store::{Object, Reading, Records, Wait};

use crate::state::{Paths, PodRecord, PodRecords, RecordsError, StatusRecord};

/// The records of this node's Pods.
#[derive(Debug)]
pub(super) struct PodObjects(PodRecords);

impl PodObjects {
    pub(super) fn new(paths: &Paths) -> Self {
        Self(PodRecords::new(paths.clone()))
    }

    fn object(&self, uid: &str) -> Result<Option<Pod>, RecordsError> {
        match self.0.visible(uid)? {
            Some(record) => pod_object(&self.0, record),
            None => Ok(None),
        }
    }
}

impl Records for PodObjects {
    fn uids(&self) -> Result<Vec<String>, Box<dyn Error + Send + Sync>> {
        Ok(self.0.uids()?)
    }

    fn read(&self, uid: &str, wait: Wait) -> Result<Reading, Box<dyn Error + Send + Sync>> {
        let read = || self.object(uid);
        Ok(match self.0.read_unchanging(uid, wait == Wait::Yes, read)? {
            None => Reading::BeingChanged,
            Some(None) => Reading::Absent,
            Some(Some(pod)) => Reading::Found(Box::new(Object::new(serde_json::to_value(pod)?)?)),
        })
    }
}

/// The Pod with its status as a Kubernetes API object; `None` if it is gone.
///
/// # Errors
/// If its status cannot be read.
pub fn pod_object(records: &PodRecords, record: PodRecord) -> Result<Option<Pod>, RecordsError> {
    let status = match records.status(&record.uid)? {
        Some(status) => status,
        // The status does not exist yet, or the Pod is gone.
        None if records.visible(&record.uid)?.is_none() => return Ok(None),
        None => StatusRecord::pending(),
    };
    let mut pod = record.pod;
    let metadata = &mut pod.metadata;
    metadata.uid = Some(record.uid);
    metadata.name = Some(record.name);
    metadata.namespace = Some(record.namespace);
    if status.deletion_timestamp.is_some() {
        // The API server also increments the generation (`BeforeDelete`).
        metadata.generation = metadata.generation.map(|generation| generation.saturating_add(1));
    }
    metadata.deletion_timestamp = status.deletion_timestamp;
    metadata.deletion_grace_period_seconds = status.deletion_grace_period_seconds;
    // The Pod and its status are written one after the other, each with its version.
    let number = |version: &Option<String>| version.as_deref().and_then(|version| version.parse::<u64>().ok());
    if number(&status.resource_version) > number(&metadata.resource_version) {
        metadata.resource_version = status.resource_version;
    }
    pod.status = Some(status.status);
    Ok(Some(pod))
}
