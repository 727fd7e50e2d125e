//! Changes Pods that exist: for `patch`, `label`, `annotate`, `edit`, `replace` and `apply`. The Pod's supervisor
//! records the change and acts on it. A Pod that has ended is changed here, under its lock.

#[cfg(test)]
mod tests;

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use microkube_manifest::Problem;

use crate::pod::client::{ClientError, SupervisorClient};
use crate::pod::launch::{LaunchError, start_supervisor};
use crate::pod::log_place::LogPlace;
use crate::pod::patience::{ANSWER_PATIENCE, LOOK_INTERVAL};
use crate::pod::pod_update::{self, has_finalizers};
use crate::pod::pod_version::{PodVersions, SaveError};
use crate::pod::recorded_pod;
use crate::pod::supervisor_protocol::{
    Change, FrameError, MAX_FRAME_BYTES, Notice, SupervisorFrame, SupervisorRequest, UpdateRequest, VERSION_UPDATE,
    read_frame,
};
use crate::pod::sweep::forget_ended;
use crate::state::{LockedFile, Paths, PodRecord, PodRecords, RecordsError};

/// How many times a change is repeated because the Pod has changed meanwhile (`MaxRetryWhenPatchConflicts`).
const ATTEMPTS: usize = 5;

/// The part of a Pod that is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Metadata and specification.
    Pod,
    /// `status`: the conditions that are not the supervisor's own, such as those of readiness gates.
    Status,
}

/// Whether to change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Write,
    /// Only check the change.
    DryRun,
}

/// The Pod after a change, with its status.
#[derive(Debug, Clone, PartialEq)]
pub enum Updated {
    Changed(Pod),
    /// The change had no effect.
    Unchanged(Pod),
}

impl Updated {
    #[must_use]
    pub fn into_pod(self) -> Pod {
        match self {
            Self::Changed(pod) | Self::Unchanged(pod) => pod,
        }
    }
}

/// A Pod could not be changed. `E` is the error of the caller's change.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError<E> {
    #[error("pods {name:?} not found")]
    NotFound { name: String },
    /// The caller could not compute the change.
    #[error("{0}")]
    Change(E),
    /// Kubernetes does not allow the change.
    #[error("Pod {name:?} is invalid: {}", Listed(problems))]
    Invalid { name: String, problems: Vec<Problem> },
    /// The Pod was changed since the caller has read it.
    #[error(
        "Operation cannot be fulfilled on pods {name:?}: the object has been modified; please apply your changes to the latest \
         version and try again"
    )]
    Conflict { name: String },
    /// The Pod exceeds the maximum length of a frame to the supervisor.
    #[error("pod {name:?} is too large to be changed: {bytes} bytes exceed the limit of {MAX_FRAME_BYTES}")]
    TooLarge { name: String, bytes: usize },
    /// The supervisor is from an earlier build.
    #[error(
        "the Pod's supervisor is from an earlier microkube and cannot change the Pod; delete the Pod and create it again"
    )]
    Unsupported,
    /// The supervisor did not accept the change.
    #[error("{0}")]
    Refused(String),
    #[error("its supervisor does not answer; see {0}")]
    NoAnswer(LogPlace),
    /// The supervisor cannot be reached.
    #[error(transparent)]
    Client(ClientError),
    /// The Pod lost its supervisor, and another one could not be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// The store gave no number for the change.
    #[error(transparent)]
    Store(#[from] microkube_store::StoreError),
    /// The Pod has no finalizers any more, and could not be removed.
    #[error(transparent)]
    Release(anyhow::Error),
}

impl<E> From<SaveError> for UpdateError<E> {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Store(error) => error.into(),
            SaveError::Records(error) => error.into(),
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> UpdateError<E> {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Client(error) => error.into(),
            Self::Launch(error) => error.into(),
            Self::Records(error) => error.into(),
            Self::Store(error) => error.into(),
            Self::Release(error) => error,
            _ => self.into(),
        }
    }
}

/// Several problems in Kubernetes' form (`utilerrors.Aggregate`).
struct Listed<'p>(&'p [Problem]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [problem] => f.write_str(&problem.message),
            problems => {
                let messages: Vec<_> = problems.iter().map(|problem| problem.message.as_str()).collect();
                write!(f, "[{}]", messages.join(", "))
            }
        }
    }
}

/// Changes a Pod: `change` gets the Pod with its status and returns the wanted one. It is called again if the Pod has
/// changed meanwhile. If the wanted Pod has a `resourceVersion`, the Pod must still have that one. Returns when the
/// change is recorded; containers may restart later.
///
/// # Errors
/// See [`UpdateError`].
pub async fn update<E>(
    paths: &Paths,
    namespace: &str,
    name: &str,
    part: Part,
    mode: Mode,
    change: &mut dyn FnMut(&Pod) -> Result<Pod, E>,
) -> Result<Updated, UpdateError<E>> {
    let records = PodRecords::new(paths.clone());
    let not_found = || UpdateError::NotFound { name: name.to_owned() };
    for _ in 0..ATTEMPTS {
        let record = records.find(namespace, name)?.ok_or_else(not_found)?;
        let uid = record.uid.clone();
        let recorded = record.pod.clone();
        let pod = recorded_pod::object(&records, record)?.ok_or_else(not_found)?;
        let wanted = change(&pod).map_err(UpdateError::Change)?;
        if let Some(version) = &wanted.metadata.resource_version
            && Some(version) != pod.metadata.resource_version.as_ref()
        {
            return Err(UpdateError::Conflict { name: name.to_owned() });
        }
        let invalid = |problems| UpdateError::Invalid {
            name: name.to_owned(),
            problems,
        };
        let (change, after) = match part {
            Part::Pod => {
                let deleted_at = pod.metadata.deletion_timestamp.as_ref();
                let Some(changed) = pod_update::changed(&recorded, deleted_at, &wanted).map_err(invalid)? else {
                    return Ok(Updated::Unchanged(pod));
                };
                let after = as_read(changed.clone(), &pod);
                (Change::Pod(Box::new(changed)), after)
            }
            Part::Status => {
                let conditions = pod_update::client_conditions(&wanted).map_err(invalid)?;
                let since = pod.status.as_ref().map(pod_update::conditions_of_clients);
                let since = since.unwrap_or_default();
                if since == conditions {
                    return Ok(Updated::Unchanged(pod));
                }
                let after = pod_update::with_client_conditions(pod, &conditions);
                let wanted = conditions;
                (Change::Conditions { since, wanted }, after)
            }
        };
        if mode == Mode::DryRun {
            return Ok(Updated::Changed(after));
        }
        let request = UpdateRequest {
            since: recorded.metadata.resource_version.clone(),
            change,
        };
        if ask(paths, &records, &uid, name, request).await? == Answer::Done {
            let record = records.get(&uid)?;
            let now = record
                .map(|record| recorded_pod::object(&records, record))
                .transpose()?;
            // The Pod may have ended and be gone by now.
            return Ok(Updated::Changed(now.flatten().unwrap_or(after)));
        }
    }
    Err(UpdateError::Conflict { name: name.to_owned() })
}

/// The changed record of a Pod as [`recorded_pod::object`] shows it. `live` is the Pod before the change: its status and
/// deletion stay, and it keeps its version until the change is written.
fn as_read(mut changed: Pod, live: &Pod) -> Pod {
    changed.status.clone_from(&live.status);
    let (metadata, live) = (&mut changed.metadata, &live.metadata);
    metadata.resource_version.clone_from(&live.resource_version);
    metadata.deletion_timestamp.clone_from(&live.deletion_timestamp);
    metadata.deletion_grace_period_seconds = live.deletion_grace_period_seconds;
    if live.deletion_timestamp.is_some() {
        // The record does not count the deletion.
        metadata.generation = metadata.generation.map(|generation| generation.saturating_add(1));
    }
    changed
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Done,
    /// The Pod has changed meanwhile.
    Outdated,
}

/// Makes the Pod's owner change it. Starts a supervisor if the Pod has lost its own.
async fn ask<E>(
    paths: &Paths,
    records: &PodRecords,
    uid: &str,
    name: &str,
    request: UpdateRequest,
) -> Result<Answer, UpdateError<E>> {
    let bytes = serde_json::to_vec(&request).map_or(0, |text| text.len());
    // The rest of the frame is short.
    if bytes.saturating_add(64) > MAX_FRAME_BYTES {
        let name = name.to_owned();
        return Err(UpdateError::TooLarge { name, bytes });
    }
    let started = tokio::time::Instant::now();
    let no_answer = || {
        let record = records.get(uid).ok().flatten();
        UpdateError::NoAnswer(LogPlace::new(paths, uid, record.as_ref()))
    };
    loop {
        let asked = tokio::time::timeout(ANSWER_PATIENCE, ask_supervisor(paths, uid, &request)).await;
        if let Some(answer) = asked.map_err(|_| no_answer())?? {
            return Ok(answer);
        }
        if let Some(mut lock) = records.claim(uid)? {
            let Some(record) = records.get(uid)? else {
                return Ok(Answer::Outdated);
            };
            records.refuse_newer(uid)?;
            if record.released {
                return change_ended(paths, records, record, &request, lock).await;
            }
            // The Pod has lost its supervisor.
            start_supervisor(paths, &record, &mut lock, None, false)?;
        }
        if started.elapsed() > ANSWER_PATIENCE {
            return Err(no_answer());
        }
        // A listening socket or a free lock is only found by trying.
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Asks the supervisor; `None` if none listens, or it has just ended.
async fn ask_supervisor<E>(
    paths: &Paths,
    uid: &str,
    request: &UpdateRequest,
) -> Result<Option<Answer>, UpdateError<E>> {
    let mut supervisor = match SupervisorClient::connect(paths, uid).await {
        Ok(supervisor) => supervisor,
        Err(ClientError::NotRunning(_) | ClientError::WentAway | ClientError::Frame(FrameError::Io(_))) => {
            return Ok(None);
        }
        Err(error) => return Err(UpdateError::Client(error)),
    };
    if supervisor.version < VERSION_UPDATE {
        return Err(UpdateError::Unsupported);
    }
    if supervisor
        .ask(SupervisorRequest::Update(request.clone()))
        .await
        .is_err()
    {
        return Ok(None);
    }
    match read_frame(&mut supervisor.from).await {
        Ok(Some(SupervisorFrame::Notice(Notice::Done))) => Ok(Some(Answer::Done)),
        Ok(Some(SupervisorFrame::Notice(Notice::Outdated))) => Ok(Some(Answer::Outdated)),
        Ok(Some(SupervisorFrame::Notice(Notice::Refused { message }))) => Err(UpdateError::Refused(message)),
        Ok(Some(_)) => Err(UpdateError::Client(ClientError::Unexpected)),
        Ok(None) | Err(_) => Ok(None),
    }
}

/// Changes a Pod that consists only of its records. The lock makes this process its owner.
async fn change_ended<E>(
    paths: &Paths,
    records: &PodRecords,
    mut record: PodRecord,
    request: &UpdateRequest,
    lock: LockedFile,
) -> Result<Answer, UpdateError<E>> {
    if record.pod.metadata.resource_version != request.since {
        return Ok(Answer::Outdated);
    }
    let mut status = records.status(&record.uid)?.unwrap_or_default();
    if let Change::Conditions { since, .. } = &request.change
        && pod_update::conditions_of_clients(&status.status) != *since
    {
        return Ok(Answer::Outdated);
    }
    let versions = PodVersions::new(paths);
    match &request.change {
        Change::Pod(changed) => {
            record.pod = Pod::clone(changed);
            if status.deletion_timestamp.is_some() && !has_finalizers(&record.pod) {
                forget_ended(paths, records, &record.uid)
                    .await
                    .map_err(UpdateError::Release)?;
            } else {
                versions.save(&mut record)?;
            }
        }
        Change::Conditions { wanted, .. } => {
            pod_update::set_client_conditions(&mut status.status, wanted);
            versions.save_status(&record, status)?;
        }
    }
    drop(lock);
    Ok(Answer::Done)
}
