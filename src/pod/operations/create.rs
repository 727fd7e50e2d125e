//! New Pods: their records, and the start of those that live without a command line.

use std::os::fd::AsFd;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::manifest::Manifests;
use crate::pod;
use crate::state::{Paths, PodRecord, PodRecords, ProcessIdentity, PullSecretRecord};

/// Starts a Pod that lives without this process, and stays in the records until it is deleted.
///
/// # Errors
/// When there is a Pod of this name already ([`crate::state::RecordsError::AlreadyExists`]), or its supervisor cannot be started;
/// nothing is left of it then.
pub(super) fn start_detached(paths: &Paths, pod: &Pod, manifests: &Manifests) -> anyhow::Result<PodRecord> {
    let record = new_record(pod, manifests, true)?;
    let records = PodRecords::new(paths.clone());
    let lock = records.create(&record)?;
    match pod::start_supervisor(paths, &record, lock.as_fd(), None, false) {
        // It is on its own from here; init reaps it.
        Ok(_child) => Ok(record),
        Err(error) => {
            records.remove(&record.uid)?;
            Err(error)
        }
    }
}

/// Frees the name of a Pod that is to be started from one that has ended with its command line.
pub(super) fn make_way(paths: &Paths, pod: &Pod) -> anyhow::Result<()> {
    // One of `generateName` has no name yet.
    let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pod::make_way(paths, namespace, name))
}

/// The record of a new Pod, with its UID and, for `generateName`, its name, as the API server gives them.
pub(super) fn new_record(pod: &Pod, manifests: &Manifests, detached: bool) -> anyhow::Result<PodRecord> {
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
    pod.spec.get_or_insert_default().node_name = Some(pod::node_name());
    let pull_secrets = manifests.pull_secrets_of(&pod).into_iter().map(|secret| {
        Ok(PullSecretRecord {
            name: secret.name.clone(),
            docker_config_json: String::from_utf8(secret.docker_config_json.clone())
                .with_context(|| format!("the Secret {:?} is not text", secret.name))?,
        })
    });
    let pull_secrets = pull_secrets.collect::<anyhow::Result<_>>()?;
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
    use super::super::pods::test_pods::record_of;
    use super::*;

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
        assert_eq!(attached.pod.spec.unwrap().node_name, Some(pod::node_name()));
    }
}
