//! Waits until the Pod's claims are bound, as Kubernetes' scheduler does before it places a Pod.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use microkube_base::causes::with_causes;
use microkube_claims::BoundVolume;
use tokio::task::JoinHandle;

use super::message::Message;
use super::supervised_pod::SupervisedPod;
use crate::pod::changes::{Changed, Changes};
use crate::pod::claims::{self, PodClaims, claim_names};
use crate::pod::lifecycle::{Event, NotPlaced, PodEvent};
use crate::state::PodRecords;

/// The scheduler's pauses before it tries to place a Pod again (`podInitialBackoffSeconds` and `podMaxBackoffSeconds` of
/// its configuration), for what no change announces, such as a disk that could not be created. Changes of the Pod's
/// claims and of other Pods with them end a pause.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// The attempts to find volumes for the claims of a Pod that has not begun, until it is dropped. In the end the main loop
/// gets [`Message::Scheduled`].
#[derive(Debug)]
pub struct Scheduling(JoinHandle<()>);

impl Scheduling {
    pub fn start(pod: &Arc<SupervisedPod>) -> Self {
        let pod = Arc::clone(pod);
        Self(tokio::spawn(async move {
            let report = |why: Option<&NotPlaced>| pod.report(Event::Unplaced { why: why.cloned() });
            bound(&pod, report).await;
            pod.send(Message::Scheduled);
        }))
    }
}

impl Drop for Scheduling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a Pod waits.
#[derive(Debug, Default, PartialEq)]
struct Waiting {
    /// For the condition `PodScheduled`.
    why: Option<NotPlaced>,
    events: Vec<PodEvent>,
}

/// The volumes of all claims of the Pod. `waits` is called before each wait, with its reason if it is known.
pub async fn bound(pod: &Arc<SupervisedPod>, mut waits: impl FnMut(Option<&NotPlaced>)) -> Vec<BoundVolume> {
    if !claims::has_claims(&pod.record.pod) {
        return Vec::new();
    }
    let mut changes = pod.changes.clone();
    let mut others = None;
    let mut follows_others = false;
    let mut pause = FIRST_RETRY;
    let mut reported = Waiting::default();
    loop {
        let waiting = match bind(pod).await {
            Ok(bound) => return bound,
            Err(waiting) => waiting,
        };
        waits(waiting.why.as_ref());
        for event in waiting.events.iter().filter(|event| !reported.events.contains(*event)) {
            pod.warn(format!("the Pod is waiting: {}", event.message)).await;
            pod.send(Message::Emit(event.clone()));
        }
        reported = waiting;
        if !follows_others {
            // Only now, because most Pods never wait. What has changed before is not reported, so try again.
            follows_others = true;
            others = OtherUsers::of(pod).await;
            continue;
        }
        tokio::select! {
            () = changes.changed() => {}
            () = changed(&mut others) => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = pause.saturating_mul(2).min(LONGEST_RETRY);
    }
}

/// Waits until another Pod with a claim of this one has changed; forever if Pods cannot be followed. Cancel safe.
async fn changed(others: &mut Option<OtherUsers>) {
    match others {
        Some(others) => others.changed().await,
        None => std::future::pending().await,
    }
}

/// The Pods that use claims of a Pod. The end of one may let another start (`ReadWriteOncePod`).
#[derive(Debug)]
struct OtherUsers {
    pod: Arc<SupervisedPod>,
    claims: BTreeSet<String>,
    changes: Changes,
}

impl OtherUsers {
    /// `None` if Pods cannot be followed, for example because the host's inotify instances are used up.
    async fn of(pod: &Arc<SupervisedPod>) -> Option<Self> {
        let paths = pod.paths.clone();
        let changes = tokio::task::spawn_blocking(move || Changes::of(&paths)).await;
        let changes = match changes {
            Ok(Ok(changes)) => changes,
            Ok(Err(error)) => {
                tracing::warn!("the end of Pods with the same claims is noticed later: {error:#}");
                return None;
            }
            Err(_) => return None,
        };
        Some(Self {
            claims: claim_names(&pod.record.pod).collect(),
            pod: Arc::clone(pod),
            changes,
        })
    }

    /// Waits until one has changed or is gone. Cancel safe.
    async fn changed(&mut self) {
        loop {
            match self.changes.next().await {
                Ok(Changed::Pods(uids)) if !uids.iter().any(|uid| self.concerns(uid)) => {}
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!("cannot follow Pods with the same claims: {error:#}");
                    return std::future::pending().await;
                }
            }
        }
    }

    fn concerns(&self, uid: &str) -> bool {
        if *uid == self.pod.record.uid {
            return false;
        }
        match PodRecords::new(self.pod.paths.clone()).get(uid) {
            Ok(Some(other)) => {
                other.namespace == self.pod.record.namespace
                    && claim_names(&other.pod).any(|claim| self.claims.contains(&claim))
            }
            // It may have been one.
            Ok(None) | Err(_) => true,
        }
    }
}

/// Applies the rules again after disks were mounted that had become larger, because their file systems have grown.
pub fn note_mounted(pod: &Arc<SupervisedPod>, bound: &[BoundVolume]) {
    let grows = |bound: &BoundVolume| {
        let status = bound.claim.status.as_ref();
        status.is_some_and(|status| status.allocated_resource_statuses.is_some())
    };
    if bound.iter().any(grows) {
        let pod = Arc::clone(pod);
        tokio::task::spawn_blocking(move || claims::settle_or_warn(&pod.paths));
    }
}

/// The volumes, or why the Pod must wait.
async fn bind(pod: &Arc<SupervisedPod>) -> Result<Vec<BoundVolume>, Waiting> {
    let copy = Arc::clone(pod);
    let claims = tokio::task::spawn_blocking(move || claims::bind(&copy.paths, &copy.record.uid)).await;
    match claims {
        Ok(Ok(PodClaims::Bound(bound))) => Ok(bound),
        Ok(Ok(PodClaims::Waiting { why, events })) => Err(Waiting {
            why: why.map(|why| NotPlaced {
                is_error: why.is_error(),
                message: why.to_string(),
            }),
            events: events
                .into_iter()
                .map(|own| event(own.is_warning, own.reason, own.message))
                .collect(),
        }),
        Ok(Err(error)) => Err(failed(with_causes(&error))),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// An attempt that failed itself.
fn failed(message: String) -> Waiting {
    Waiting {
        why: Some(NotPlaced {
            is_error: true,
            message: message.clone(),
        }),
        events: vec![event(true, "FailedScheduling", message)],
    }
}

fn event(warning: bool, reason: &'static str, message: String) -> PodEvent {
    PodEvent {
        warning,
        reason,
        message,
        container: None,
    }
}
