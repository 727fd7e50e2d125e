//! Applies a manifest: creates the Pod, or changes an existing one.

use std::convert::Infallible;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use microkube_manifest::kinds::Object;

use super::create::{CreateError, free_name, start_detached};
use super::namespaces;
use super::update::{Mode, Part, UpdateError, Updated, update};
use crate::state::{Paths, PodRecords, RecordsError};

/// What to do if a Pod with the same name exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Change it if it differs.
    Keep,
    /// Fail.
    Refuse,
}

/// The result of applying a Pod's manifest.
#[derive(Debug, Clone, PartialEq)]
pub enum Applied {
    /// The Pod was created, or would be.
    Created(Pod),
    /// The Pod existed and was changed, or would be.
    Configured(Pod),
    /// The Pod already exists and matches the manifest.
    Unchanged(Pod),
}

/// A Pod's manifest cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// `metadata.generateName` is only valid for new Pods.
    #[error("from {prefix}: cannot use generate name with apply")]
    GenerateName {
        /// `metadata.generateName`.
        prefix: String,
    },
    /// The Pod exists, with [`Existing::Refuse`].
    #[error("pods {name:?} already exists")]
    AlreadyExists {
        /// Name of the Pod.
        name: String,
    },
    /// The Pod exists, and could not be changed.
    #[error(transparent)]
    Update(#[from] UpdateError<Infallible>),
    /// The Pod did not exist, and could not be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// The records cannot be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A Pod with the same name has ended and cannot be released.
    #[error(transparent)]
    Release(anyhow::Error),
}

impl ApplyError {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Create(error) => error.into_report(),
            Self::Records(error) => error.into(),
            Self::Release(error) => error,
            Self::Update(error) => error.into_report(),
            _ => self.into(),
        }
    }
}

/// Creates a Pod that outlives this process, or changes the one with this name.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply(paths: &Paths, pod: &Pod, existing: Existing) -> Result<Applied, ApplyError> {
    free_name(paths, pod).await.map_err(ApplyError::Release)?;
    apply_with(paths, pod, existing, Mode::Write, &mut |pod| {
        start_detached(paths, pod).map(|record| record.pod)
    })
    .await
}

/// Like [`apply`], but changes nothing.
///
/// # Errors
/// See [`ApplyError`].
pub async fn try_apply(paths: &Paths, pod: &Pod, existing: Existing) -> Result<Applied, ApplyError> {
    apply_with(paths, pod, existing, Mode::DryRun, &mut |pod| {
        let metadata = &pod.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        namespaces::check(paths, namespace, metadata.name.as_deref().unwrap_or_default())?;
        Ok(pod.clone())
    })
    .await
}

async fn apply_with(
    paths: &Paths,
    pod: &Pod,
    existing: Existing,
    mode: Mode,
    create: &mut dyn FnMut(&Pod) -> Result<Pod, CreateError>,
) -> Result<Applied, ApplyError> {
    let records = PodRecords::new(paths.clone());
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
    let already_exists = || ApplyError::AlreadyExists { name: name.to_owned() };
    if records.find(namespace, name)?.is_none() {
        match create(pod) {
            Ok(created) => return Ok(Applied::Created(created)),
            // Another process has just created a Pod with this name. It may be the same.
            Err(CreateError::Records(RecordsError::AlreadyExists(..))) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if existing == Existing::Refuse {
        return Err(already_exists());
    }
    let mut change = |current: &Pod| Ok::<_, Infallible>(merged(current, pod));
    match update(paths, namespace, name, Part::Pod, mode, &mut change).await? {
        Updated::Changed(pod) => Ok(Applied::Configured(pod)),
        Updated::Unchanged(pod) => Ok(Applied::Unchanged(pod)),
    }
}

/// The existing Pod with all values of the manifest. Fields that the manifest lacks stay unchanged.
fn merged(current: &Pod, manifest: &Pod) -> Pod {
    let mut pod = current.clone();
    let (metadata, wanted) = (&mut pod.metadata, &manifest.metadata);
    for (own, wanted) in [
        (&mut metadata.labels, &wanted.labels),
        (&mut metadata.annotations, &wanted.annotations),
    ] {
        if let Some(wanted) = wanted {
            own.get_or_insert_default().extend(wanted.clone());
        }
    }
    if wanted.finalizers.is_some() {
        metadata.finalizers.clone_from(&wanted.finalizers);
    }
    if wanted.owner_references.is_some() {
        metadata.owner_references.clone_from(&wanted.owner_references);
    }
    let mut spec = manifest.spec.clone().unwrap_or_default();
    let own = current.spec.clone().unwrap_or_default();
    keep_pull_policies(&mut spec, &own);
    if spec.active_deadline_seconds.is_none() {
        spec.active_deadline_seconds = own.active_deadline_seconds;
    }
    if spec.tolerations.is_none() {
        spec.tolerations = own.tolerations;
    }
    // Only `debug` adds them.
    spec.ephemeral_containers = own.ephemeral_containers;
    pod.spec = Some(spec);
    pod
}

/// The default of a pull policy depends on the image's tag, but a change of the image does not change the policy: one that
/// is the default stays as it is.
fn keep_pull_policies(wanted: &mut PodSpec, own: &PodSpec) {
    let own = || own.containers.iter().chain(own.init_containers.iter().flatten());
    let init = wanted.init_containers.iter_mut().flatten();
    for wanted in wanted.containers.iter_mut().chain(init) {
        if let Some(own) = own().find(|own| own.name == wanted.name)
            && wanted.image_pull_policy == default_pull_policy(wanted)
        {
            wanted.image_pull_policy.clone_from(&own.image_pull_policy);
        }
    }
}

fn default_pull_policy(container: &Container) -> Option<String> {
    let container = Container {
        image: container.image.clone(),
        ..Container::default()
    };
    let mut pod = Object::from(Pod {
        spec: Some(PodSpec {
            containers: vec![container],
            ..PodSpec::default()
        }),
        ..Pod::default()
    });
    pod.set_defaults();
    match pod {
        Object::Pod(pod) => pod.spec?.containers.pop()?.image_pull_policy,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::test_pods::{TestPods, manifest, record_of};

    fn wanted(manifest: &serde_json::Value) -> Pod {
        let mut pod = record_of(manifest).pod;
        pod.metadata.uid = None;
        pod.metadata.creation_timestamp = None;
        pod
    }

    /// The result for this manifest, and whether a Pod was created.
    async fn applied(
        pods: &TestPods,
        manifest: &serde_json::Value,
        existing: Existing,
    ) -> (Result<Applied, String>, bool) {
        let mut created = false;
        let wanted = wanted(manifest);
        let applied = apply_with(&pods.paths, &wanted, existing, Mode::Write, &mut |pod| {
            created = true;
            Ok(pod.clone())
        })
        .await;
        (applied.map_err(|error| error.to_string()), created)
    }

    #[tokio::test]
    async fn unchanged_pods_are_kept_and_missing_ones_created() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (web, created) = applied(&pods, &manifest("web", "nginx:1", "a"), Existing::Keep).await;
        assert!(matches!(web, Ok(Applied::Unchanged(_))) && !created, "{web:?}");
        let db = manifest("db", "db:1", "a");
        assert_eq!(
            applied(&pods, &db, Existing::Keep).await,
            (Ok(Applied::Created(wanted(&db))), true)
        );
    }

    #[tokio::test]
    async fn a_changed_pod_is_configured_and_keeps_what_the_manifest_does_not_have() {
        let pods = TestPods::new();
        let mut old = manifest("web", "nginx:1", "a");
        old["metadata"]["labels"] = json!({ "tier": "front", "team": "a" });
        old["spec"]["activeDeadlineSeconds"] = 60.into();
        pods.add_ended(&old);
        let mut new = manifest("web", "nginx:latest", "a");
        new["metadata"]["labels"] = json!({ "tier": "back" });
        let (web, created) = applied(&pods, &new, Existing::Keep).await;
        let Ok(Applied::Configured(web)) = web else {
            panic!("{web:?}")
        };
        assert!(!created);
        assert_eq!(
            web.metadata.labels.unwrap(),
            [("tier", "back"), ("team", "a")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into()
        );
        let spec = web.spec.unwrap();
        assert_eq!(spec.active_deadline_seconds, Some(60));
        assert_eq!(spec.containers[0].image.as_deref(), Some("nginx:latest"));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
        let (again, _) = applied(&pods, &new, Existing::Keep).await;
        assert!(matches!(again, Ok(Applied::Unchanged(_))), "{again:?}");
    }

    #[tokio::test]
    async fn a_forbidden_change_is_refused() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (other_command, _) = applied(&pods, &manifest("web", "nginx:1", "b"), Existing::Keep).await;
        let error = other_command.unwrap_err();
        assert!(error.starts_with("Pod \"web\" is invalid: spec: Forbidden: pod updates may not change"));
    }

    #[tokio::test]
    async fn a_pod_that_must_be_new_is_refused_if_it_exists() {
        let pods = TestPods::new();
        pods.add_pod(&manifest("web", "nginx:1", "a"));
        let (web, created) = applied(&pods, &manifest("web", "nginx:1", "a"), Existing::Refuse).await;
        assert_eq!((web, created), (Err("pods \"web\" already exists".to_owned()), false));
    }

    #[tokio::test]
    async fn a_concurrent_apply_finds_the_pod_created_first() {
        let pods = TestPods::new();
        let web = wanted(&manifest("web", "nginx:1", "a"));
        let applied = apply_with(&pods.paths, &web, Existing::Keep, Mode::Write, &mut |_| {
            // The Pod as it is on its node.
            let mut on_node = manifest("web", "nginx:1", "a");
            on_node["spec"]["nodeName"] = "host".into();
            pods.add_pod(&on_node);
            let late = record_of(&manifest("web", "nginx:1", "a"));
            Err(pods.records.create(&late).unwrap_err().into())
        })
        .await;
        assert!(matches!(applied, Ok(Applied::Unchanged(_))), "{applied:?}");
    }
}
