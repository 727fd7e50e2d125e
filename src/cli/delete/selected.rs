//! The objects to delete, and their deletion.

use serde_json::Value;

use super::super::objects::arguments::Requested;
use super::super::objects::listing::Reader;
use super::super::pods::selection::{NoSuchPod, select};
use super::cascade::{Cascade, delete_with_dependents, finish, prepare};
use super::objects::{Deleted, Deletions};
use crate::pod::operations::delete::DeleteOptions;
use crate::pod::operations::dependents::Owners;
use crate::state::{Paths, PodRecord, PodRecords};

/// The objects to delete.
#[derive(Default)]
pub(super) struct Selected {
    pub(super) pods: Vec<PodRecord>,
    pub(super) deletions: Deletions,
    /// Why other objects may remain: names without an object, unreadable objects.
    pub(super) errors: Vec<anyhow::Error>,
}

impl Selected {
    pub(super) fn read(reader: &Reader, requested: &Requested, ignore_not_found: bool) -> anyhow::Result<Self> {
        let mut selected = Self::default();
        for group in &requested.groups {
            if group.kind.kind == "Pod" {
                let records = PodRecords::new(reader.paths().clone());
                let (mut records, mut errors) = select(&records, &requested.pods(group))?;
                if !requested.field_selector.is_empty() {
                    let pods = reader.read(group, requested)?.objects;
                    let uids: Vec<&str> = pods.iter().filter_map(uid).collect();
                    records.retain(|record| uids.contains(&record.uid.as_str()));
                }
                errors.retain(|error| !(ignore_not_found && error.is::<NoSuchPod>()));
                selected.pods.extend(records);
                selected.errors.extend(errors);
            } else {
                let listing = reader.read(group, requested)?;
                selected.deletions.add(listing, ignore_not_found, &mut selected.errors);
            }
        }
        Ok(selected)
    }

    /// Deletes the objects and, as `cascade` says, their dependents. Returns why objects still exist.
    pub(super) fn delete(
        self,
        paths: &Paths,
        cascade: Cascade,
        options: &DeleteOptions,
        tell: &dyn Fn(Deleted<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<Vec<anyhow::Error>> {
        let Selected {
            pods,
            mut deletions,
            mut errors,
        } = self;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        if cascade != Cascade::Background {
            // The dependents of objects that stay must stay as they are.
            deletions.drop_refused(paths, &mut errors)?;
            let owners = owners(&pods, &deletions);
            let failures = runtime.block_on(prepare(paths, owners, cascade, options))?;
            if !failures.is_empty() {
                // The owners are not deleted.
                errors.extend(failures);
                return Ok(errors);
            }
        }
        let owners = owners(&pods, &deletions);
        let begun = deletions.begin(paths, false, tell, &mut errors);
        let tell_of_pod = &mut |record: &PodRecord| tell(Deleted::pod(record));
        let failures = match cascade {
            Cascade::Background => {
                runtime.block_on(delete_with_dependents(paths, owners, begun, pods, options, tell_of_pod))?
            }
            Cascade::Orphan | Cascade::Foreground => {
                let waiting = begun?;
                runtime.block_on(finish(paths, &waiting, pods, options, tell_of_pod))?
            }
        };
        errors.extend(failures);
        Ok(errors)
    }
}

/// The objects whose dependents are concerned.
fn owners(pods: &[PodRecord], deletions: &Deletions) -> Owners {
    let pods = pods.iter();
    let pods = pods.map(|record| (record.uid.clone(), Some(record.namespace.clone())));
    pods.chain(deletions.owners()).collect()
}

fn uid(object: &Value) -> Option<&str> {
    object.pointer("/metadata/uid")?.as_str()
}
