//! Deletes Pods: asks their supervisors, replaces those that die, and waits for the end.

mod ask;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, StreamExt};

pub use self::ask::AskError;
use self::ask::ask;
use crate::pod::changes::{Changed, Changes};
use crate::pod::sweep::sweep;
use crate::state::{Paths, PodRecord, PodRecords};

/// How many times a Pod's supervisor may die during its deletion before the deletion fails.
const MAX_SUPERVISORS: usize = 3;

/// How to delete Pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct DeleteOptions {
    /// Replaces the Pods' own grace periods. Zero is a forced deletion: the Pods disappear immediately.
    pub grace: Option<Duration>,
    /// Wait until the Pods are gone.
    pub waits: bool,
    /// Maximum time to wait.
    pub timeout: Option<Duration>,
}

/// A Pod could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The Pod's deletion was not accepted.
    #[error("cannot delete pod {name:?}")]
    Refused {
        name: String,
        /// The reason.
        #[source]
        source: AskError,
    },
    /// The Pod was not gone at the timeout.
    #[error("timed out waiting for the condition on pods/{name}")]
    TimedOut {
        /// Name of the Pod.
        name: String,
    },
}

impl DeleteError {
    /// Converts to a report that keeps the types of other modules' errors in its chain.
    #[must_use]
    pub fn into_report(self) -> anyhow::Error {
        match self {
            Self::Refused { name, source } => source.into_report().context(format!("cannot delete pod {name:?}")),
            Self::TimedOut { .. } => self.into(),
        }
    }
}

/// Deletes a Pod and waits until it is gone. Without `grace`, its own grace period applies.
///
/// # Errors
/// If the Pod cannot be deleted, or cannot be waited for.
pub async fn delete_one(paths: &Paths, record: PodRecord, grace: Option<Duration>) -> anyhow::Result<()> {
    let options = DeleteOptions {
        grace,
        waits: true,
        timeout: None,
    };
    let failures = delete(paths, vec![record], &options, &mut |_| Ok(())).await?;
    failures
        .into_iter()
        .next()
        .map_or(Ok(()), |failure| Err(failure.into_report()))
}

/// Requests the deletion of all Pods at the same time, calls `tell` for each that accepted, and waits until they are
/// gone. Returns an error for each Pod that failed.
///
/// # Errors
/// An error from `tell`, or if the Pods cannot be waited for.
pub async fn delete(
    paths: &Paths,
    records: Vec<PodRecord>,
    options: &DeleteOptions,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<DeleteError>> {
    let deadline = options.timeout.map(|timeout| Instant::now() + timeout);
    let mut asked: FuturesUnordered<_> = records
        .into_iter()
        .map(|record| async move {
            let result = ask(paths, &record.uid, options.grace).await;
            (record, result)
        })
        .collect();
    let (mut failures, mut ending) = (Vec::new(), Vec::new());
    while let Some((record, result)) = asked.next().await {
        match result {
            Ok(()) => {
                tell(&record)?;
                ending.push(record);
            }
            Err(source) => failures.push(DeleteError::Refused {
                name: record.name,
                source,
            }),
        }
    }
    if options.waits {
        failures.extend(wait_until_gone(paths, ending, options.grace, deadline).await?);
    }
    Ok(failures)
}

/// Waits until the Pods are gone. If a supervisor dies meanwhile, the sweep replaces it, and the new one is asked.
async fn wait_until_gone(
    paths: &Paths,
    mut ending: Vec<PodRecord>,
    grace: Option<Duration>,
    deadline: Option<Instant>,
) -> anyhow::Result<Vec<DeleteError>> {
    let records = PodRecords::new(paths.clone());
    let mut changes = Changes::of(paths)?;
    let mut died = 0;
    loop {
        ending.retain(|record| !records.is_gone(&record.uid));
        if ending.is_empty() {
            return Ok(Vec::new());
        }
        let mut exits: Vec<OwnedFd> = Vec::new();
        let mut asked_again = false;
        for record in &ending {
            let supervisor = records.get(&record.uid)?.and_then(|record| record.supervisor);
            match supervisor.map(|supervisor| supervisor.exit_event()).transpose()? {
                Some(Some(exit)) => exits.push(exit),
                // Its supervisor is not recorded yet; the record will change.
                None => {}
                Some(None) if records.is_gone(&record.uid) => {}
                Some(None) => {
                    died += 1;
                    if died > MAX_SUPERVISORS * ending.len() {
                        anyhow::bail!("the supervisor of pod {:?} keeps crashing", record.name);
                    }
                    sweep(paths).await?;
                    ask(paths, &record.uid, grace).await.map_err(AskError::into_report)?;
                    asked_again = true;
                }
            }
        }
        // The new supervisor may have died already. If its records cannot be written, no event would report that, so
        // check again.
        if asked_again {
            continue;
        }
        let (watched, changed) = tokio::task::spawn_blocking(move || {
            let others: Vec<_> = exits.iter().map(AsFd::as_fd).collect();
            let changed = changes.wait(deadline, &others);
            (changes, changed)
        })
        .await?;
        changes = watched;
        if changed? == Changed::Nothing {
            let timed_out = |record: PodRecord| DeleteError::TimedOut { name: record.name };
            return Ok(ending.into_iter().map(timed_out).collect());
        }
    }
}
