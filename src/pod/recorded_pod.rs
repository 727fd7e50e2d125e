//! A Pod as its records show it to processes other than its supervisor.

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodStatus};

use crate::state::{PodRecord, PodRecords, RecordsError};

/// A Pod as its records have it.
#[derive(Debug, Clone)]
pub struct RecordedPod {
    /// The Pod.
    pub record: PodRecord,
    /// Empty as long as the supervisor has said nothing.
    pub status: PodStatus,
    /// Its deletion was asked for.
    pub is_terminating: bool,
}

impl RecordedPod {
    /// Of a record.
    ///
    /// # Errors
    /// When its status cannot be read.
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

    /// Whether nothing of the Pod will run any more.
    #[must_use]
    pub fn is_completed(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    /// The status of one of the Pod's containers.
    #[must_use]
    pub fn container_status(&self, name: &str) -> Option<&ContainerStatus> {
        let status = &self.status;
        [&status.container_statuses, &status.init_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .find(|status| status.name == name)
    }
}

/// The containers of a Pod in the order in which kubectl names them, init containers last.
pub fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec
        .iter()
        .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()))
}

/// The container of this name.
#[must_use]
pub fn container<'p>(pod: &'p Pod, name: &str) -> Option<&'p Container> {
    containers(pod).find(|container| container.name == name)
}
