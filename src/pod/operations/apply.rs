//! Applies a Pod's configuration: creates the Pod, or changes the existing one by the rules of `kubectl apply`. The Pod
//! keeps the configuration in an annotation.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::kinds::Object as Typed;
use microkube_patch::last_applied;
use serde_json::Value;

use super::create::{CreateError, free_name, start_detached};
use super::namespaces;
use super::update::{Mode, Part, UpdateError, update};
use crate::objects::{self, ObjectError, Outcome, Overwrite};
use crate::state::{Paths, PodRecords, RecordsError};

/// How many times an apply starts again because the Pod was created or deleted meanwhile, as in kubectl.
const ATTEMPTS: usize = 5;

/// A Pod's manifest.
#[derive(Clone, PartialEq)]
pub struct PodConfiguration {
    /// The validated Pod with all defaults.
    pub pod: Pod,
    /// The Pod as its author wrote it, with its namespace.
    pub written: Value,
}

/// Without the manifest, whose variables may have passwords.
impl fmt::Debug for PodConfiguration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.pod.metadata.name;
        f.debug_struct("PodConfiguration")
            .field("name", name)
            .finish_non_exhaustive()
    }
}

/// The result of applying a Pod's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub outcome: Outcome,
    /// The Pod after the apply, or, in a dry run, as it would be.
    pub pod: Pod,
    /// The Pod had no last applied configuration, because another command created it. No field was removed.
    pub lacked_annotation: bool,
}

/// A Pod's configuration cannot be applied, or the Pod cannot be created.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The Pod must not exist, but does.
    #[error("pods {name:?} already exists")]
    AlreadyExists {
        /// Name of the Pod.
        name: String,
    },
    /// The configuration breaks a rule.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// The Pod exists, and could not be changed.
    #[error(transparent)]
    Update(#[from] UpdateError<ObjectError>),
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
            Self::Object(error) => error.into(),
            Self::AlreadyExists { .. } => self.into(),
        }
    }
}

/// Creates a Pod that outlives this process, with its configuration, or changes the existing Pod with this name.
///
/// # Errors
/// See [`ApplyError`].
pub async fn apply(
    paths: &Paths,
    configuration: &PodConfiguration,
    overwrite: Overwrite,
    mode: Mode,
) -> Result<Applied, ApplyError> {
    prepare(paths, &configuration.pod, mode).await?;
    apply_with(paths, configuration, overwrite, mode, &mut |pod| {
        start(paths, pod, mode)
    })
    .await
}

/// Creates a Pod that outlives this process; no Pod may have its name.
///
/// # Errors
/// See [`ApplyError`].
pub async fn create(paths: &Paths, pod: &Pod, mode: Mode) -> Result<Pod, ApplyError> {
    prepare(paths, pod, mode).await?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let already_exists = || ApplyError::AlreadyExists { name: name.to_owned() };
    if PodRecords::new(paths.clone()).find(namespace, name)?.is_some() {
        return Err(already_exists());
    }
    start(paths, pod, mode).map_err(|error| match error {
        CreateError::Records(RecordsError::AlreadyExists(..)) => already_exists(),
        error => error.into(),
    })
}

/// The new Pod of a configuration, with the configuration in its annotation.
///
/// # Errors
/// If the annotations become too long.
pub fn annotated(configuration: &PodConfiguration) -> Result<Pod, ObjectError> {
    let modified = last_applied::record(configuration.written.clone())?;
    with_annotation(&configuration.pod, &modified)
}

async fn prepare(paths: &Paths, pod: &Pod, mode: Mode) -> Result<(), ApplyError> {
    match mode {
        Mode::Write => free_name(paths, pod).await.map_err(ApplyError::Release),
        Mode::DryRun => Ok(()),
    }
}

fn start(paths: &Paths, pod: &Pod, mode: Mode) -> Result<Pod, CreateError> {
    match mode {
        Mode::Write => start_detached(paths, pod).map(|record| record.pod),
        Mode::DryRun => {
            let metadata = &pod.metadata;
            let namespace = metadata.namespace.as_deref().unwrap_or_default();
            namespaces::check(paths, namespace, metadata.name.as_deref().unwrap_or_default())?;
            Ok(pod.clone())
        }
    }
}

async fn apply_with(
    paths: &Paths,
    configuration: &PodConfiguration,
    overwrite: Overwrite,
    mode: Mode,
    create: &mut dyn FnMut(&Pod) -> Result<Pod, CreateError>,
) -> Result<Applied, ApplyError> {
    let metadata = &configuration.pod.metadata;
    let name = metadata.name.as_deref().unwrap_or_default();
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    if name.is_empty()
        && let Some(prefix) = metadata.generate_name.clone()
    {
        return Err(ObjectError::GenerateName { prefix }.into());
    }
    let records = PodRecords::new(paths.clone());
    let modified = last_applied::record(configuration.written.clone()).map_err(ObjectError::from)?;
    let mut attempts = 1..=ATTEMPTS;
    loop {
        attempts.next();
        if records.find(namespace, name)?.is_none() {
            match create(&with_annotation(&configuration.pod, &modified)?) {
                Ok(pod) => {
                    return Ok(Applied {
                        outcome: Outcome::Created,
                        pod,
                        lacked_annotation: false,
                    });
                }
                // Another process has just created a Pod with this name.
                Err(CreateError::Records(RecordsError::AlreadyExists(..))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        match configure(paths, &configuration.pod, &modified, overwrite, mode).await {
            Err(UpdateError::NotFound { .. }) if !attempts.is_empty() => {}
            result => return Ok(result?),
        }
    }
}

/// Changes the existing Pod by the three-way patch.
async fn configure(
    paths: &Paths,
    pod: &Pod,
    modified: &Value,
    overwrite: Overwrite,
    mode: Mode,
) -> Result<Applied, UpdateError<ObjectError>> {
    let kind = Typed::from(pod.clone()).kind();
    let (mut outcome, mut lacked_annotation) = (Outcome::Unchanged, false);
    let mut change = |current: &Pod| {
        let merged = objects::merge(kind, modified, &Typed::from(current.clone()).to_value(), overwrite)?;
        lacked_annotation = merged.lacked_annotation;
        let Some(object) = merged.object else {
            outcome = Outcome::Unchanged;
            return Ok(current.clone());
        };
        outcome = Outcome::Configured;
        match objects::read(kind, &object)? {
            Typed::Pod(pod) => Ok(*pod),
            // Not reached, because the kind is Pod.
            _ => Ok(current.clone()),
        }
    };
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let updated = update(paths, namespace, name, Part::Pod, mode, &mut change).await?;
    Ok(Applied {
        outcome,
        pod: updated.into_pod(),
        lacked_annotation,
    })
}

/// The Pod with the annotation of its configuration.
fn with_annotation(pod: &Pod, modified: &Value) -> Result<Pod, ObjectError> {
    let mut pod = pod.clone();
    if let Some(text) = modified["metadata"]["annotations"][last_applied::ANNOTATION].as_str() {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(last_applied::ANNOTATION.to_owned(), text.to_owned());
    }
    let object = Typed::from(pod.clone());
    let problems = object.validate();
    if problems.is_empty() {
        return Ok(pod);
    }
    Err(ObjectError::Invalid {
        kind: object.kind().kind.to_owned(),
        name: pod.metadata.name.unwrap_or_default(),
        problems,
    })
}

#[cfg(test)]
mod tests;
