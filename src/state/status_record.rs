//! The part of a Pod that its supervisor publishes: its status, and whether it is being deleted.

use k8s_openapi::api::core::v1::PodStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::format_version::{POD_RECORDS_VERSION, RecordFormat};

/// The part of a Pod that `get`, `describe` and `wait` show besides its record.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StatusRecord {
    /// The Pod's `status`.
    pub status: PodStatus,
    /// `metadata.deletionTimestamp`: when the grace period ends, once a deletion was requested.
    #[serde(default)]
    pub deletion_timestamp: Option<Time>,
    /// `metadata.deletionGracePeriodSeconds`.
    #[serde(default)]
    pub deletion_grace_period_seconds: Option<i64>,
    /// `metadata.resourceVersion`, unless the Pod was changed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_version: Option<String>,
}

impl RecordFormat for StatusRecord {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

impl StatusRecord {
    /// The status of a Pod whose supervisor has not published one yet.
    #[must_use]
    pub fn pending() -> Self {
        Self {
            status: PodStatus {
                phase: Some("Pending".to_owned()),
                ..PodStatus::default()
            },
            ..Self::default()
        }
    }

    /// Whether the Pod has ended: its phase will not change any more.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed"))
    }
}
