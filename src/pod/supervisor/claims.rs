//! Waits until the Pod's claims are bound, as Kubernetes' scheduler does before it places a Pod.

use std::sync::Arc;
use std::time::Duration;

use microkube_base::causes::with_causes;
use microkube_claims::BoundVolume;

use super::message::Message;
use super::supervised_pod::SupervisedPod;
use crate::pod::claims::{self, PodClaims};
use crate::pod::lifecycle::PodEvent;

/// The scheduler's pauses before it tries to place a Pod again (`podInitialBackoffSeconds` and `podMaxBackoffSeconds` of
/// its configuration). Changes of the Pod's claims end a pause; the end of another Pod that has the claim does not.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(10);

/// The volumes of all claims of the Pod. `waits` is called before each wait.
pub async fn bound(pod: &Arc<SupervisedPod>, mut waits: impl FnMut()) -> Vec<BoundVolume> {
    if !claims::has_claims(&pod.record.pod) {
        return Vec::new();
    }
    let mut changes = pod.changes.clone();
    let mut pause = FIRST_RETRY;
    let mut reported = Vec::new();
    loop {
        let problems = match bind(pod).await {
            Ok(bound) => return bound,
            Err(problems) => problems,
        };
        waits();
        for problem in problems.iter().filter(|problem| !reported.contains(*problem)) {
            pod.warn(format!("the Pod is waiting: {}", problem.message)).await;
            pod.send(Message::Emit(problem.clone()));
        }
        reported = problems;
        tokio::select! {
            () = changes.changed() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = pause.saturating_mul(2).min(LONGEST_RETRY);
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
async fn bind(pod: &Arc<SupervisedPod>) -> Result<Vec<BoundVolume>, Vec<PodEvent>> {
    let copy = Arc::clone(pod);
    let claims = tokio::task::spawn_blocking(move || claims::bind(&copy.paths, &copy.record.uid)).await;
    let failed = |message| vec![event(true, "FailedScheduling", message)];
    match claims {
        Ok(Ok(PodClaims::Bound(bound))) => Ok(bound),
        Ok(Ok(PodClaims::Waiting(events))) => {
            let events = events.into_iter();
            Err(events
                .map(|own| event(own.is_warning, own.reason, own.message))
                .collect())
        }
        Ok(Err(error)) => Err(failed(with_causes(&error))),
        Err(error) => Err(failed(error.to_string())),
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
