//! The record of one Pod: what whoever owns it knows of it.

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::format_version::{POD_RECORDS_VERSION, RecordFormat};
use super::process::ProcessIdentity;

/// What is known of one Pod across processes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Kubernetes UID of the Pod; also the name of its directories.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Pod as defaulted and validated.
    pub pod: Pod,
    /// The Secrets that the Pod's `imagePullSecrets` name, in this order. The record's file is for root alone.
    #[serde(default)]
    pub pull_secrets: Vec<PullSecretRecord>,
    /// Whether the Pod goes on without a command line, and its records stay when it has ended.
    #[serde(default)]
    pub detached: bool,
    /// Whether a detached Pod has ended and has nothing of the host any more but its records.
    #[serde(default)]
    pub released: bool,
    /// The command line that stays attached to the Pod; the Pod ends with it.
    pub client: Option<ProcessIdentity>,
    /// The supervisor, once it runs.
    pub supervisor: Option<ProcessIdentity>,
    /// The virtual machine monitor, once it runs.
    pub vmm: Option<ProcessIdentity>,
}

impl RecordFormat for PodRecord {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

impl PodRecord {
    /// As it is once the Pod has nothing of the host any more.
    #[must_use]
    pub fn into_released(self) -> Self {
        Self {
            supervisor: None,
            vmm: None,
            released: true,
            ..self
        }
    }
}

/// A Secret of the type `kubernetes.io/dockerconfigjson`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSecretRecord {
    /// `metadata.name`.
    pub name: String,
    /// The value of its key `.dockerconfigjson`, decoded.
    pub docker_config_json: String,
}

impl std::fmt::Debug for PullSecretRecord {
    /// Without the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSecretRecord")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
