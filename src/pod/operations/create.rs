//! Creates Pods: writes their records, and starts those that run without a command line.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::namespaces::{self, NamespaceEnds};
use crate::pod::launch::{LaunchError, start_supervisor};
use crate::pod::pod_update;
use crate::pod::pod_version::PodVersions;
use crate::pod::sweep;
use crate::state::{LockedFile, Paths, PodRecord, ProcessIdentity, RecordsError};

/// A Pod could not be created. It leaves nothing behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Namespace(#[from] NamespaceEnds),
    /// The Pod could not be recorded, for example because its name is in use ([`RecordsError::AlreadyExists`]).
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The supervisor could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The supervisor could not be reached.
    #[error(transparent)]
    Connection(#[from] std::io::Error),
}

impl CreateError {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Records(error) => error.into(),
            Self::Launch(error) => error.into(),
            Self::Connection(error) => error.into(),
            Self::Namespace(_) => self.into(),
        }
    }
}

/// Waits until the name of a new Pod is free, if the previous Pod with this name ends with its command line.
///
/// # Errors
/// If records cannot be read, or a resource of that Pod cannot be released.
pub async fn free_name(paths: &Paths, pod: &Pod) -> anyhow::Result<()> {
    // A Pod with `generateName` has no name yet.
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
        return Ok(());
    };
    sweep::free_name(paths, namespace, name).await
}

/// Starts a Pod that outlives this process and stays in the records until it is deleted.
///
/// # Errors
/// See [`CreateError`].
pub fn start_detached(paths: &Paths, pod: &Pod) -> Result<PodRecord, CreateError> {
    let mut record = new_record(pod, true);
    let mut lock = write_record(paths, &mut record)?;
    match start_supervisor(paths, &record, &mut lock, None, false) {
        // The supervisor now runs independently; init reaps it.
        Ok(_child) => Ok(record),
        Err(error) => {
            PodVersions::new(paths).remove(&record.uid)?;
            Err(error.into())
        }
    }
}

/// Writes the record of a new Pod, which gets its first version.
pub(super) fn write_record(paths: &Paths, record: &mut PodRecord) -> Result<LockedFile, CreateError> {
    namespaces::check(paths, &record.namespace, &record.name)?;
    let lock = PodVersions::new(paths).create(record)?;
    stay(paths, record)?;
    Ok(lock)
}

/// Removes a new record if the deletion of its namespace has begun meanwhile, because that deletion may have missed the
/// Pod.
fn stay(paths: &Paths, record: &PodRecord) -> Result<(), CreateError> {
    let checked = namespaces::check(paths, &record.namespace, &record.name);
    if checked.is_err() {
        PodVersions::new(paths).remove(&record.uid)?;
    }
    Ok(checked?)
}

/// The record of a new Pod, with a UID and, for `generateName`, a name, as the API server does.
#[must_use]
pub fn new_record(pod: &Pod, detached: bool) -> PodRecord {
    let mut pod = pod.clone();
    let uid = uuid::Uuid::new_v4().to_string();
    let metadata = &mut pod.metadata;
    metadata.uid = Some(uid.clone());
    metadata.creation_timestamp = Some(Time(jiff::Timestamp::now()));
    metadata.generation = Some(1);
    // The Pod's owner and its deletion set these.
    metadata.resource_version = None;
    metadata.deletion_timestamp = None;
    metadata.deletion_grace_period_seconds = None;
    let name = match (&metadata.name, &metadata.generate_name) {
        (Some(name), _) => name.clone(),
        (None, prefix) => {
            let suffix: String = uid.chars().filter(char::is_ascii_alphanumeric).take(5).collect();
            format!("{}{suffix}", prefix.as_deref().unwrap_or_default())
        }
    };
    metadata.name = Some(name.clone());
    let namespace = metadata.namespace.clone().unwrap_or_default();
    pod_update::schedule(&mut pod);
    PodRecord {
        uid,
        namespace,
        name,
        pod,
        // The Secrets are in the store. No value of a Secret is recorded.
        pull_secrets: Vec::new(),
        detached,
        released: false,
        client: ProcessIdentity::current().filter(|_| !detached),
        supervisor: None,
        vmm: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::objects::{begin_namespace_deletion, ensure_namespace, open};
    use crate::pod::resolved_pod::node_name;
    use crate::pod::test_pods::{TestPods, manifest, record_of};

    #[test]
    fn a_detached_pod_has_no_client_and_every_pod_has_uid_creation_time_and_node() {
        let pod = record_of(&serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" },
            "spec": { "restartPolicy": "Never", "containers": [{ "name": "main", "image": "nginx:1" }] },
        }))
        .pod;
        let detached = new_record(&pod, true);
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
        let attached = new_record(&pod, false);
        assert!(!attached.detached && attached.client == ProcessIdentity::current());
        assert_ne!(attached.uid, detached.uid);
        assert_eq!(attached.pod.spec.unwrap().node_name, Some(node_name()));
    }

    #[test]
    fn a_pod_whose_namespace_is_deleted_while_it_is_created_is_removed() {
        let pods = TestPods::new();
        let store = open(&pods.paths).unwrap();
        ensure_namespace(&store, "shop").unwrap();
        let mut wanted = manifest("web", "nginx:1", "sleep");
        wanted["metadata"]["namespace"] = "shop".into();
        let mut record = record_of(&wanted);
        let _lock = write_record(&pods.paths, &mut record).unwrap();
        assert!(record.pod.metadata.resource_version.is_some());
        begin_namespace_deletion(&store, "shop").unwrap();
        assert_eq!(
            stay(&pods.paths, &record).unwrap_err().to_string(),
            "pods \"web\" is forbidden: unable to create new content in namespace shop because it is being terminated"
        );
        assert!(pods.records.find("shop", "web").unwrap().is_none());
    }
}
