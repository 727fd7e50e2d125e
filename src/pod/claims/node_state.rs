//! Reads what the rules of claims depend on: the objects in the store, Pods in their records, and the disks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, PodCondition};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use microkube_claims::{Disk, State};
use microkube_manifest::kinds;
use microkube_store::{List, Resource, Scope, Store};
use serde::de::DeserializeOwned;

use super::error::ClaimsError;
use super::names::has_claims;
use crate::objects::{self, PODS};
use crate::pod::resolved_pod::node_name;
use crate::privileged::Privileges;
use crate::state::Paths;

/// The types whose objects the rules read and write.
#[derive(Debug)]
pub(super) struct Types {
    pub claims: Resource,
    pub volumes: Resource,
    classes: Resource,
}

/// The node with its objects and disks.
#[derive(Debug)]
pub(super) struct NodeState<'n> {
    paths: &'n Paths,
    pub store: &'n Store,
    pub privileges: &'n Privileges,
    pub types: Types,
}

/// The file that exists once a Pod has its claims: Kubernetes' scheduler has placed such a Pod.
pub(super) fn mark_of(paths: &Paths, uid: &str) -> PathBuf {
    paths.pod_state(uid).join("claims-bound")
}

impl<'n> NodeState<'n> {
    pub fn new(paths: &'n Paths, store: &'n Store, privileges: &'n Privileges) -> Self {
        Self {
            paths,
            store,
            privileges,
            types: Types {
                claims: objects::resource(kinds::Object::from(PersistentVolumeClaim::default()).kind()),
                volumes: objects::resource(kinds::Object::from(PersistentVolume::default()).kind()),
                classes: objects::resource(kinds::Object::from(StorageClass::default()).kind()),
            },
        }
    }

    /// The node as it is now.
    ///
    /// # Errors
    /// If any object cannot be read. Otherwise a claim could lose its disk because its user is missing.
    pub fn read(&self, failed_disks: &BTreeSet<String>) -> Result<State, ClaimsError> {
        let types = [&self.types.claims, &self.types.volumes, &self.types.classes, &PODS];
        let lists = self
            .store
            .list_all(&types.map(|resource| (resource.clone(), Scope::All)))?;
        let mut lists = lists.into_iter();
        let (claims, volumes) = (typed(lists.next())?, typed(lists.next())?);
        let (classes, mut pods): (_, Vec<Pod>) = (typed(lists.next())?, typed(lists.next())?);
        for pod in pods.iter_mut().filter(|pod| has_claims(pod)) {
            self.note_placement(pod);
        }
        Ok(State {
            claims,
            volumes,
            classes,
            pods,
            disks: self.disks()?,
            failed_disks: failed_disks.clone(),
            node: node_name(),
            now: Time(jiff::Timestamp::now()),
        })
    }

    fn disks(&self) -> Result<BTreeMap<String, Disk>, ClaimsError> {
        let disks = self.privileges.claim_disks().map_err(ClaimsError::Disks)?;
        let disks = disks.into_iter().map(|(name, size)| {
            let disk = Disk {
                bytes: size.bytes,
                has_smaller_file_system: size.has_smaller_file_system,
            };
            (name, disk)
        });
        Ok(disks.collect())
    }

    /// Sets the condition `PodScheduled` to whether the Pod has its claims.
    fn note_placement(&self, pod: &mut Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let is_placed = mark_of(self.paths, uid).exists();
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != "PodScheduled");
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: if is_placed { "True" } else { "False" }.to_owned(),
            ..PodCondition::default()
        });
    }
}

fn typed<T: DeserializeOwned>(list: Option<List>) -> Result<Vec<T>, ClaimsError> {
    // The store returns one list for each type.
    let Some(list) = list else { return Ok(Vec::new()) };
    if let Some(damaged) = list.damaged.into_iter().next() {
        return Err(ClaimsError::Damaged(damaged));
    }
    let read = |object: &std::sync::Arc<microkube_store::Object>| {
        T::deserialize(object.value()).map_err(|source| ClaimsError::Undecodable {
            kind: "object",
            name: object.name().to_owned(),
            source,
        })
    };
    list.items.iter().map(read).collect()
}
