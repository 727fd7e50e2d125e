//! One application of the rules to the node, under its lock.

use std::collections::BTreeSet;
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use microkube_base::causes::with_causes;
use microkube_claims::{BoundVolume, Event, State, Unschedulable, bound_volumes, reconcile};
use microkube_store::Store;

use super::error::{ClaimsError, ROUNDS};
use super::events::record;
use super::node_state::{NodeState, mark_of};
use super::steps::Steps;
use crate::objects;
use crate::pod::patience::{CLAIMS_PATIENCE, LOOK_INTERVAL};
use crate::privileged::Privileges;
use crate::state::{LockedFile, Paths, replace_file, try_lock_exclusive};

/// The claims of a Pod that is about to start.
#[derive(Debug)]
pub enum PodClaims {
    /// All claims have volumes.
    Bound(Vec<BoundVolume>),
    /// The Pod must wait.
    Waiting {
        /// Why; `None` if the Pod is gone.
        why: Option<Unschedulable>,
        /// The events about it.
        events: Vec<Event>,
    },
}

/// Applies the rules to all claims and volumes. Blocks.
///
/// # Errors
/// See [`ClaimsError`].
pub fn settle(paths: &Paths) -> Result<(), ClaimsError> {
    let store = objects::open(paths)?;
    let _lock = lock(paths)?;
    apply(paths, &store).map(drop)
}

/// Like [`settle`], for callers who can do nothing about an error: the next call continues.
pub fn settle_or_warn(paths: &Paths) {
    if let Err(error) = settle(paths) {
        tracing::warn!("volume claims wait for the next change: {}", with_causes(&error));
    }
}

/// Applies the rules for a Pod that is about to start. If all its claims are bound, other Pods see from now on that it has
/// them. Blocks.
///
/// # Errors
/// See [`ClaimsError`].
pub fn bind(paths: &Paths, uid: &str) -> Result<PodClaims, ClaimsError> {
    let store = objects::open(paths)?;
    let _lock = lock(paths)?;
    let Settled { state, events } = apply(paths, &store)?;
    let is_own = |pod: &&Pod| pod.metadata.uid.as_deref() == Some(uid);
    let Some(pod) = state.pods.iter().find(is_own) else {
        // It is being deleted by force.
        return Ok(PodClaims::Waiting {
            why: None,
            events: Vec::new(),
        });
    };
    match bound_volumes(&state, pod) {
        Ok(bound) => {
            replace_file(&mark_of(paths, uid), b"")?;
            Ok(PodClaims::Bound(bound))
        }
        Err(problem) => Ok(PodClaims::Waiting {
            events: about(events, pod, problem.event(pod)),
            why: Some(problem),
        }),
    }
}

/// The events about a Pod that waits, with at least this one.
fn about(events: Vec<Event>, pod: &Pod, least: Event) -> Vec<Event> {
    let is_own = |event: &Event| pod.metadata.uid.as_deref() == Some(event.about.uid.as_str());
    let mut own: Vec<Event> = events.into_iter().filter(is_own).collect();
    if !own.contains(&least) {
        own.push(least);
    }
    own
}

/// The node after the rules have been applied.
struct Settled {
    state: State,
    /// What happened, and what objects wait for.
    events: Vec<Event>,
}

/// The caller holds the lock.
fn apply(paths: &Paths, store: &Store) -> Result<Settled, ClaimsError> {
    let privileges = Privileges::new(paths);
    let node = NodeState::new(paths, store, &privileges);
    let mut failed_disks = BTreeSet::new();
    let mut events = Vec::new();
    for _ in 0..ROUNDS {
        let state = node.read(&failed_disks)?;
        let plan = reconcile(&state);
        if plan.changes.is_empty() {
            record(paths, &events, &plan.waiting);
            events.extend(plan.waiting);
            return Ok(Settled { state, events });
        }
        let mut steps = Steps::new(&node, &mut failed_disks);
        let carried_out = steps.carry_out(plan.changes);
        events.extend(steps.into_events());
        if let Err(error) = carried_out {
            record(paths, &events, &[]);
            return Err(error);
        }
    }
    record(paths, &events, &[]);
    Err(ClaimsError::Endless)
}

fn lock(paths: &Paths) -> Result<LockedFile, ClaimsError> {
    let start = Instant::now();
    let path = paths.run_dir().join("claims.lock");
    loop {
        if let Some(lock) = try_lock_exclusive(&path)? {
            return Ok(lock);
        }
        if start.elapsed() > CLAIMS_PATIENCE {
            return Err(ClaimsError::Busy);
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}
