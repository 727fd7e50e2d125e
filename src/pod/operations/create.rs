//! New Pods: their records, and the start of those that live without a command line.

use std::os::fd::AsFd;
use std::string::FromUtf8Error;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use microkube_manifest::Manifests;

use crate::pod::launch::{LaunchError, start_supervisor};
use crate::pod::resolved_pod::node_name;
use crate::pod::sweep;
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity, PullSecretRecord, RecordsError};

/// A Pod could not be created. Nothing is left of it then.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A pull secret is not what its type says.
    #[error("the Secret {name:?} is not text")]
    Secret {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: FromUtf8Error,
    },
    /// It cannot be recorded, in particular because there is a Pod of this name ([`RecordsError::AlreadyExists`]).
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// It has no supervisor.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The supervisor cannot be reached.
    #[error(transparent)]
    Connection(#[from] std::io::Error),
}

impl CreateError {
    /// As a report, in whose chain of causes an error of another module keeps its type.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Records(error) => error.into(),
            Self::Launch(error) => error.into(),
            Self::Connection(error) => error.into(),
            Self::Secret { .. } => self.into(),
        }
    }
}

/// Frees the name of a Pod that is to be created from one that has ended with its command line.
///
/// # Errors
/// When records cannot be read, or something of that Pod cannot be released.
pub async fn free_name(paths: &Paths, pod: &Pod) -> anyhow::Result<()> {
    // One of `generateName` has no name yet.
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
        return Ok(());
    };
    sweep::free_name(paths, namespace, name).await
}

/// Starts a Pod that lives without this process, and stays in the records until it is deleted.
///
/// # Errors
/// See [`CreateError`].
pub fn start_detached(paths: &Paths, pod: &Pod, manifests: &Manifests) -> Result<PodRecord, CreateError> {
    let record = new_record(pod, manifests, true)?;
    let records = PodRecords::new(paths.clone());
    let lock = records.create(&record)?;
    match start_supervisor(paths, &record, lock.as_fd(), None, false) {
        // It is on its own from here; init reaps it.
        Ok(_child) => Ok(record),
        Err(error) => {
            records.remove(&record.uid)?;
            Err(error.into())
        }
    }
}

/// The record of a new Pod, with its UID and, for `generateName`, its name, as the API server gives them.
///
/// # Errors
/// [`CreateError::Secret`].
pub fn new_record(pod: &Pod, manifests: &Manifests, detached: bool) -> Result<PodRecord, CreateError> {
    let mut pod = pod.clone();
    let uid = uuid::Uuid::new_v4().to_string();
    let metadata = &mut pod.metadata;
    metadata.uid = Some(uid.clone());
    metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
    // Only a Pod's deletion makes another one of it: its spec cannot be changed.
    metadata.generation = Some(1);
    let name = match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, prefix) => {
            let suffix: String = uid.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
            format!("{}{suffix}", prefix.as_deref().unwrap_or_default())
        }
    };
    metadata.name = Some(name.clone());
    let namespace = metadata.namespace.clone().unwrap_or_default();
    // As the scheduler would, which has no choice here.
    pod.spec.get_or_insert_default().node_name = Some(node_name());
    let pull_secrets = manifests.pull_secrets_of(&pod).into_iter().map(|secret| {
        Ok(PullSecretRecord {
            name: secret.name.clone(),
            docker_config_json: String::from_utf8(secret.docker_config_json.clone()).map_err(|source| {
                CreateError::Secret {
                    name: secret.name.clone(),
                    source,
                }
            })?,
        })
    });
    let pull_secrets = pull_secrets.collect::<Result<_, CreateError>>()?;
    Ok(PodRecord {
        uid,
        namespace,
        name,
        pod,
        pull_secrets,
        detached,
        released: false,
        client: ProcessIdentity::current().filter(|_| !detached),
        supervisor: None,
        vmm: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::test_pods::record_of;

    #[test]
    fn a_detached_pod_has_no_client_and_every_pod_has_uid_time_of_creation_and_node() {
        let pod = record_of(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        }))
        .pod;
        let manifests = Manifests::default();
        let detached = new_record(&pod, &manifests, true).unwrap();
        assert!(detached.detached && detached.client.is_none());
        assert_eq!(detached.pod.metadata.generation, Some(1));
        assert_eq!(detached.pod.metadata.uid.as_deref(), Some(detached.uid.as_str()));
        let age = detached
            .pod
            .metadata
            .creation_timestamp
            .unwrap()
            .0
            .duration_until(jiff::Timestamp::now());
        assert!((0..60).contains(&age.as_secs()), "{age}");
        let attached = new_record(&pod, &manifests, false).unwrap();
        assert!(!attached.detached && attached.client == ProcessIdentity::current());
        assert_ne!(attached.uid, detached.uid);
        assert_eq!(attached.pod.spec.unwrap().node_name, Some(node_name()));
    }
}
