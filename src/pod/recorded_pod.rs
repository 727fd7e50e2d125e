//! A Pod as its records show it to processes other than its supervisor.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use microkube_manifest::ephemeral::as_container;

use crate::state::{PodRecord, PodRecords, RecordsError, StatusRecord};

#[derive(Debug, Clone)]
pub struct RecordedPod {
    pub record: PodRecord,
    /// Empty until the supervisor has written a status.
    pub status: PodStatus,
    /// Its deletion was requested.
    pub is_terminating: bool,
}

impl RecordedPod {
    /// Reads the status that belongs to a record.
    ///
    /// # Errors
    /// If its status cannot be read.
    pub fn of(records: &PodRecords, record: PodRecord) -> Result<Self, RecordsError> {
        let status = records.status(&record.uid)?.unwrap_or_default();
        Ok(Self {
            record,
            is_terminating: status.deletion_timestamp.is_some(),
            status: status.status,
        })
    }

    /// `status.phase`.
    #[must_use]
    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("Pending")
    }

    /// Whether all containers of the Pod have ended for good.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    #[must_use]
    pub fn container_status(&self, name: &str) -> Option<&ContainerStatus> {
        let status = &self.status;
        let all = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        all.into_iter().flatten().flatten().find(|status| status.name == name)
    }
}

/// The Pod with its status as a Kubernetes API object; `None` if it is gone.
///
/// # Errors
/// If its status cannot be read.
pub fn object(records: &PodRecords, record: PodRecord) -> Result<Option<Pod>, RecordsError> {
    let status = match records.status(&record.uid)? {
        Some(status) => status,
        // The status does not exist yet, or no longer exists.
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

/// The containers of a Pod in kubectl's order, init containers and then ephemeral containers last.
pub fn containers(pod: &Pod) -> impl Iterator<Item = Cow<'_, Container>> {
    pod.spec.iter().flat_map(|spec| {
        let regular = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let ephemeral = spec.ephemeral_containers.iter().flatten().map(as_container);
        regular.map(Cow::Borrowed).chain(ephemeral.map(Cow::Owned))
    })
}

#[must_use]
pub fn container<'p>(pod: &'p Pod, name: &str) -> Option<Cow<'p, Container>> {
    containers(pod).find(|container| container.name == name)
}
