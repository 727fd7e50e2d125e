//! Applies a manifest: creates the Pod, or compares it with the one that exists. Says what an update of a Pod may change, which is nothing yet.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use microkube_manifest::Manifests;

use super::create::{CreateError, free_name, start_detached};
use crate::state::{Paths, PodRecords, RecordsError};

/// What a Pod of the same name means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays if it is the same.
    Keep,
    /// It is an error.
    Refuse,
}

/// What has become of a Pod of a manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// It was created, or would be.
    Created(Pod),
    /// It is there already.
    Unchanged(Pod),
}

/// A Pod cannot be as its manifest says.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Only a new Pod can have a name that is generated.
    #[error("from {prefix}: cannot use generate name with apply")]
    GenerateName {
        /// `metadata.generateName`.
        prefix: String,
    },
    /// With [`Existing::Refuse`].
    #[error("pods {name:?} already exists")]
    AlreadyExists {
        /// Name of the Pod.
        name: String,
    },
    /// Kubernetes lets nobody change this.
    #[error(
        "Pod {name:?} is invalid: spec: Forbidden: pod updates may not change fields other than \
         `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
         existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
    )]
    Forbidden {
        /// Name of the Pod.
        name: String,
    },
    /// Kubernetes would change this, microkube does not.
    #[error(
        "pod {name:?} exists with other labels, annotations, images, tolerations or another deadline: microkube does not change Pods \
         that run; delete it and apply again"
    )]
    Differs {
        /// Name of the Pod.
        name: String,
    },
    /// It was not there, and could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A Pod of the same name that has ended cannot be released.
    #[error(transparent)]
    Release(anyhow::Error),
}

impl ApplyError {
    /// As a report, in whose chain of causes an error of another module keeps its type.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Create(error) => error.into_report(),
            Self::Records(error) => error.into(),
            Self::Release(error) => error,
            _ => self.into(),
        }
    }
}

/// Creates a Pod that lives without this process, unless there is one of this name.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply(paths: &Paths, pod: &Pod, manifests: &Manifests, existing: Existing) -> Result<Applied, ApplyError> {
    free_name(paths, pod).await.map_err(ApplyError::Release)?;
    apply_with(paths, pod, existing, &mut |pod| {
        start_detached(paths, pod, manifests).map(|record| record.pod)
    })
}

/// What [`apply`] would do.
///
/// # Errors
/// See [`ApplyError`].
pub fn try_apply(paths: &Paths, pod: &Pod, existing: Existing) -> Result<Applied, ApplyError> {
    apply_with(paths, pod, existing, &mut |pod| Ok(pod.clone()))
}

fn apply_with(
    paths: &Paths,
    pod: &Pod,
    existing: Existing,
    create: &mut dyn FnMut(&Pod) -> Result<Pod, CreateError>,
) -> Result<Applied, ApplyError> {
    let records = PodRecords::new(paths.clone());
    match find_or_create(&records, pod, existing, create) {
        // Another was faster. Its Pod may be the same.
        Err(ApplyError::Create(CreateError::Records(RecordsError::AlreadyExists(..)))) => {
            find_or_create(&records, pod, existing, &mut |pod| Ok(pod.clone()))
        }
        result => result,
    }
}

fn find_or_create(
    records: &PodRecords,
    pod: &Pod,
    existing: Existing,
    create: &mut dyn FnMut(&Pod) -> Result<Pod, CreateError>,
) -> Result<Applied, ApplyError> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let prefix = pod.metadata.generate_name.as_deref();
    if existing == Existing::Keep
        && let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty())
    {
        return Err(ApplyError::GenerateName {
            prefix: prefix.to_owned(),
        });
    }
    match records.find(namespace, name)? {
        Some(_) if existing == Existing::Refuse => Err(ApplyError::AlreadyExists { name: name.to_owned() }),
        Some(record) => {
            check_same(&record.pod, pod)?;
            Ok(Applied::Unchanged(record.pod))
        }
        None => Ok(Applied::Created(create(pod)?)),
    }
}

/// Refuses another Pod of the same name.
fn check_same(existing: &Pod, wanted: &Pod) -> Result<(), ApplyError> {
    let name = || wanted.metadata.name.clone().unwrap_or_default();
    // There is one node, whatever is wanted.
    let on_any_node = |pod: &Pod| PodSpec {
        node_name: None,
        ..pod.spec.clone().unwrap_or_default()
    };
    let (existing_spec, wanted_spec) = (&on_any_node(existing), &on_any_node(wanted));
    if unchangeable(existing_spec) != unchangeable(wanted_spec) {
        return Err(ApplyError::Forbidden { name: name() });
    }
    let same_metadata = existing.metadata.labels.clone().unwrap_or_default()
        == wanted.metadata.labels.clone().unwrap_or_default()
        && existing.metadata.annotations.clone().unwrap_or_default()
            == wanted.metadata.annotations.clone().unwrap_or_default();
    if existing_spec != wanted_spec || !same_metadata {
        return Err(ApplyError::Differs { name: name() });
    }
    Ok(())
}

/// The spec without what Kubernetes lets change.
fn unchangeable(spec: &PodSpec) -> PodSpec {
    let mut spec = spec.clone();
    spec.active_deadline_seconds = None;
    spec.tolerations = None;
    for container in spec
        .containers
        .iter_mut()
        .chain(spec.init_containers.iter_mut().flatten())
    {
        container.image = None;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::test_pods::{TestPods, manifest, record_of};

    fn wanted(manifest: &serde_json::Value) -> Pod {
        let mut pod = record_of(manifest).pod;
        pod.metadata.uid = None;
        pod.metadata.creation_timestamp = None;
        pod
    }

    /// What becomes of a Pod, and whether one was created.
    fn applied(pods: &TestPods, manifest: &serde_json::Value, existing: Existing) -> (Result<Applied, String>, bool) {
        let mut created = false;
        let applied = apply_with(&pods.paths, &wanted(manifest), existing, &mut |pod| {
            created = true;
            Ok(pod.clone())
        });
        (applied.map_err(|error| error.to_string()), created)
    }

    #[test]
    fn what_is_there_stays_and_what_is_not_is_created() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (web, created) = applied(&pods, &manifest("web", "nginx:1", "a"), Existing::Keep);
        assert!(matches!(web, Ok(Applied::Unchanged(_))) && !created, "{web:?}");
        let db = manifest("db", "db:1", "a");
        assert_eq!(
            applied(&pods, &db, Existing::Keep),
            (Ok(Applied::Created(wanted(&db))), true)
        );
    }

    #[test]
    fn another_pod_of_the_same_name_is_refused() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (other_command, _) = applied(&pods, &manifest("web", "nginx:1", "b"), Existing::Keep);
        let error = other_command.unwrap_err();
        assert!(error.starts_with("Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
        let (other_image, _) = applied(&pods, &manifest("web", "nginx:2", "a"), Existing::Keep);
        let error = other_image.unwrap_err();
        assert!(error.contains("delete it and apply again"), "{error}");
    }

    #[test]
    fn a_pod_that_must_be_new_is_refused_where_there_is_one() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (web, created) = applied(&pods, &manifest("web", "nginx:1", "a"), Existing::Refuse);
        assert_eq!((web, created), (Err("pods \"web\" already exists".to_owned()), false));
    }

    #[test]
    fn of_two_at_once_the_slower_one_finds_the_pod_of_the_other() {
        let pods = TestPods::new();
        let web = wanted(&manifest("web", "nginx:1", "a"));
        let applied = apply_with(&pods.paths, &web, Existing::Keep, &mut |_| {
            // As it is on its node.
            let mut on_node = manifest("web", "nginx:1", "a");
            on_node["spec"]["nodeName"] = "host".into();
            pods.add_pod(&on_node);
            let late = record_of(&manifest("web", "nginx:1", "a"));
            Err(pods.records.create(&late).unwrap_err().into())
        });
        assert!(matches!(applied, Ok(Applied::Unchanged(_))), "{applied:?}");
    }
}
