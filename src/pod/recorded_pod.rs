//! A Pod as its records show it to processes other than its supervisor.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use microkube_manifest::ephemeral::as_container;

pub use crate::objects::pod_object as object;
use crate::state::{PodRecord, PodRecords, RecordsError};

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
