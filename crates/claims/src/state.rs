//! What the rules read: the objects, the disks, and the time.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::disk::Disk;
use crate::fields::text;

/// All objects that the rules depend on, and the disks that exist.
#[derive(Debug, Clone)]
pub struct State {
    pub claims: Vec<PersistentVolumeClaim>,
    pub volumes: Vec<PersistentVolume>,
    pub classes: Vec<StorageClass>,
    /// All Pods of all namespaces: claims whose Pod is missing here count as unused. Only `metadata`, `spec.nodeName`,
    /// `spec.schedulingGates`, `spec.volumes`, `status.phase` and the condition `PodScheduled` matter. The condition is
    /// true from the moment when [`bound_volumes`](crate::bound_volumes) has succeeded for the Pod.
    pub pods: Vec<Pod>,
    /// The disk images that exist, by name. It must be complete: volumes without their disks are cleaned up.
    pub disks: BTreeMap<String, Disk>,
    /// The disks on which work has failed since the caller began. No more work on them is planned this time.
    pub failed_disks: BTreeSet<String>,
    /// The node's name.
    pub node: String,
    pub now: Time,
}

impl State {
    pub(crate) fn class(&self, name: &str) -> Option<&StorageClass> {
        self.classes.iter().find(|class| text(&class.metadata.name) == name)
    }
}
