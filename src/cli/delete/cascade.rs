//! Handles the dependents of deleted objects, as `--cascade` specifies.

use super::objects::Waiting;
use crate::pod::operations::delete::{DeleteError, DeleteOptions, delete};
use crate::pod::operations::dependents::{Dependents, Followed, Owners};
use crate::state::{Paths, PodRecord, PodRecords};
use crate::stderr::say;

/// How the dependents of deleted objects are handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Cascade {
    /// Delete dependents after their owners
    Background,
    /// Keep dependents, without references to the deleted owners
    Orphan,
    /// Delete dependents before their owners
    Foreground,
}

/// Deletes the dependents before their owners, or makes them orphans. Returns the errors.
///
/// # Errors
/// If the dependents cannot be read.
pub(super) async fn prepare(
    paths: &Paths,
    owners: Owners,
    cascade: Cascade,
    options: &DeleteOptions,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let dependents = Dependents::read(paths, owners)?;
    Ok(match cascade {
        Cascade::Orphan => dependents.orphan().await,
        Cascade::Background | Cascade::Foreground => {
            let options = DeleteOptions {
                waits: true,
                ..*options
            };
            dependents.precede(&options).await
        }
    })
}

/// Deletes the Pods, and waits until they and the other objects are gone, as the options say. Returns the errors.
///
/// # Errors
/// An error from `tell`, or if the Pods or objects cannot be waited for.
pub(super) async fn finish(
    paths: &Paths,
    waiting: &Waiting,
    pods: Vec<PodRecord>,
    options: &DeleteOptions,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let failures = delete(paths, pods, options, tell).await?;
    let mut errors: Vec<anyhow::Error> = failures.into_iter().map(DeleteError::into_report).collect();
    errors.extend(waiting.finish(paths, options).await?);
    Ok(errors)
}

/// Deletes the Pods, and the dependents of all owners, and waits like [`finish`]. `begun` is the result of the deletion of the
/// other objects.
///
/// All deletions are requested before the first wait: the dependents must not depend on whether this command lives
/// until their owners are gone. Only those whose owners finalizers keep are deleted at the end.
///
/// # Errors
/// That of `begun`; see [`finish`].
pub(super) async fn delete_with_dependents(
    paths: &Paths,
    owners: Owners,
    begun: anyhow::Result<Waiting>,
    pods: Vec<PodRecord>,
    options: &DeleteOptions,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let has_dependents = read(paths, owners.clone()).is_some_and(|dependents| !dependents.is_empty());
    if !has_dependents {
        return finish(paths, &begun?, pods, options, tell).await;
    }
    let mut ending = Vec::new();
    let requested = match begun {
        Ok(waiting) => {
            let failures = request(paths, pods, options, tell, &mut ending).await;
            failures.map(|errors| (waiting, errors))
        }
        Err(error) => Err(error),
    };
    let mut followed = follow(paths, owners).await;
    let (waiting, mut errors) = requested?;
    errors.append(&mut followed.errors);
    let records = PodRecords::new(paths.clone());
    ending.retain(|record: &PodRecord| options.waits && !records.is_gone(&record.uid));
    errors.extend(finish(paths, &waiting, ending, options, &mut |_| Ok(())).await?);
    if options.waits && !followed.waiting.is_empty() {
        followed = follow(paths, followed.owners).await;
        errors.append(&mut followed.errors);
    }
    for name in &followed.waiting {
        say!("Warning: {name} was not deleted, because finalizers keep its owner; delete it when its owner is gone");
    }
    Ok(errors)
}

/// Requests the deletion of the Pods, without waiting, and adds those that accept it to `ending`. Returns why others
/// still exist.
async fn request(
    paths: &Paths,
    pods: Vec<PodRecord>,
    options: &DeleteOptions,
    tell: &mut dyn FnMut(&PodRecord) -> anyhow::Result<()>,
    ending: &mut Vec<PodRecord>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let options = DeleteOptions {
        waits: false,
        ..*options
    };
    let accepted = &mut |record: &PodRecord| {
        ending.push(record.clone());
        tell(record)
    };
    let failures = delete(paths, pods, &options, accepted).await?;
    Ok(failures.into_iter().map(DeleteError::into_report).collect())
}

/// Deletes the dependents of deleted objects.
async fn follow(paths: &Paths, owners: Owners) -> Followed {
    match read(paths, owners) {
        Some(dependents) => dependents.follow().await,
        None => Followed::default(),
    }
}

/// The dependents, if they can be read: the owners can be deleted all the same.
fn read(paths: &Paths, owners: Owners) -> Option<Dependents> {
    match Dependents::read(paths, owners) {
        Ok(dependents) => Some(dependents),
        Err(error) => {
            tracing::warn!("objects whose owners are deleted stay: {error:#}");
            None
        }
    }
}
