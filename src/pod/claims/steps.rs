//! Carries out the steps of a plan.

use std::collections::{BTreeSet, VecDeque};

use microkube_base::causes::with_causes;
use microkube_claims::{Change, DiskChange, Event, disk_failed};
use microkube_manifest::kinds;
use microkube_store::{Deletion, Key, Object, Resource, StoreError};
use serde::Serialize;

use super::error::ClaimsError;
use super::node_state::NodeState;
use crate::volume::ClaimDiskError;

/// Why a step was not carried out.
enum StepError {
    /// Someone else has changed the object: the rules need its new content.
    Outdated,
    Store(StoreError),
    Disk(DiskChange, ClaimDiskError),
}

impl From<StoreError> for StepError {
    fn from(error: StoreError) -> Self {
        match error.is_conflict() || error.is_not_found() || error.is_already_exists() {
            true => Self::Outdated,
            false => Self::Store(error),
        }
    }
}

/// The steps of one plan.
#[derive(Debug)]
pub(super) struct Steps<'s> {
    node: &'s NodeState<'s>,
    failed_disks: &'s mut BTreeSet<String>,
    events: Vec<Event>,
}

impl<'s> Steps<'s> {
    pub fn new(node: &'s NodeState<'s>, failed_disks: &'s mut BTreeSet<String>) -> Self {
        Self {
            node,
            failed_disks,
            events: Vec::new(),
        }
    }

    pub fn into_events(self) -> Vec<Event> {
        self.events
    }

    /// Carries out the steps in order, up to one whose object has changed meanwhile.
    ///
    /// # Errors
    /// If the store cannot be written, or not be read after work on a disk has failed.
    pub fn carry_out(&mut self, changes: Vec<Change>) -> Result<(), ClaimsError> {
        let mut steps = VecDeque::from(changes);
        while let Some(step) = steps.pop_front() {
            match self.perform(&step) {
                Ok(()) => {}
                Err(StepError::Outdated) => return Ok(()),
                Err(StepError::Store(error)) => return Err(error.into()),
                Err(StepError::Disk(work, error)) => {
                    let error = with_causes(&error);
                    tracing::warn!("the disk {}: {error}", work.disk);
                    self.failed_disks.insert(work.disk);
                    let state = self.node.read(self.failed_disks)?;
                    for instead in disk_failed(&state, &step, &error).into_iter().rev() {
                        steps.push_front(instead);
                    }
                }
            }
        }
        Ok(())
    }

    fn perform(&mut self, step: &Change) -> Result<(), StepError> {
        let (store, privileges, types) = (self.node.store, self.node.privileges, &self.node.types);
        let disk = |work: &DiskChange, done: Result<(), ClaimDiskError>| {
            done.map_err(|error| StepError::Disk(work.clone(), error))
        };
        let delete = |resource: &Resource, key: &Key, uid: &str| {
            let deletion = Deletion {
                uid: Some(uid.to_owned()),
                ..Deletion::default()
            };
            store.delete(resource, key, &deletion).map(drop)
        };
        match step {
            Change::CreateClaim(claim) => {
                let mut object = kinds::Object::from(claim.as_ref().clone());
                object.set_defaults();
                object.prepare_for_create();
                store.create(&types.claims, Object::new(object.to_value()).map_err(StoreError::from)?)?;
            }
            Change::CreateVolume(volume) => {
                let mut object = kinds::Object::from(volume.as_ref().clone());
                object.set_defaults();
                store.create(
                    &types.volumes,
                    Object::new(object.to_value()).map_err(StoreError::from)?,
                )?;
            }
            Change::UpdateClaim(claim) => drop(store.update(&types.claims, object(claim)?)?),
            Change::UpdateVolume(volume) => drop(store.update(&types.volumes, object(volume)?)?),
            Change::DeleteClaim { namespace, name, uid } => {
                delete(&types.claims, &Key::namespaced(namespace, name), uid)?;
            }
            Change::DeleteVolume { name, uid } => delete(&types.volumes, &Key::cluster(name), uid)?,
            Change::CreateDisk(work) => disk(work, privileges.create_claim_disk(&work.disk, work.bytes))?,
            Change::GrowDisk(work) => disk(work, privileges.grow_claim_disk(&work.disk, work.bytes))?,
            Change::DeleteDisk(work) => disk(work, privileges.delete_claim_disk(&work.disk))?,
            Change::Event(event) => {
                tracing::info!("{event}");
                self.events.push(event.clone());
            }
        }
        Ok(())
    }
}

fn object(typed: &impl Serialize) -> Result<Object, StoreError> {
    // These types have only string keys, so they always are JSON.
    Ok(Object::new(serde_json::to_value(typed).unwrap_or_default())?)
}
