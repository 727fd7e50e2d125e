//! The record of a Pod.

use k8s_openapi::api::core::v1::Pod;
use serde::{Deserialize, Serialize};

use super::format_version::{POD_RECORDS_VERSION, RecordFormat};
use super::process::ProcessIdentity;

/// The state of a Pod that processes share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// Kubernetes UID of the Pod, which is also the name of its directories.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// The Pod as defaulted and validated.
    pub pod: Pod,
    /// Secrets from the Pod's `imagePullSecrets`, if an earlier build created the Pod. New Pods have none: their Secrets
    /// are in the store.
    #[serde(default)]
    pub pull_secrets: Vec<PullSecretRecord>,
    /// Whether the Pod runs without a command line, and its records stay when it has ended.
    #[serde(default)]
    pub detached: bool,
    /// Whether a detached Pod has ended and only its records are left.
    #[serde(default)]
    pub released: bool,
    /// The attached command line; the Pod ends with it.
    pub client: Option<ProcessIdentity>,
    /// The supervisor, once it is running.
    pub supervisor: Option<ProcessIdentity>,
    /// The virtual machine monitor, once it is running.
    pub vmm: Option<ProcessIdentity>,
}

impl RecordFormat for PodRecord {
    const VERSION: u32 = POD_RECORDS_VERSION;
}

impl PodRecord {
    /// The record of a Pod whose host resources are released.
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

/// A Secret of type `kubernetes.io/dockerconfigjson`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullSecretRecord {
    /// `metadata.name`.
    pub name: String,
    /// The value of its key `.dockerconfigjson`, decoded.
    pub docker_config_json: String,
}

impl std::fmt::Debug for PullSecretRecord {
    /// Omits the credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PullSecretRecord")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
