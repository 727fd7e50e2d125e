//! Objects for tests, and a node that carries out plans as its store and its disks would.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::{Value, json};

use crate::change::Change;
use crate::disk::Disk;
use crate::fields::{Key, claim_phase, key, text, volume_name, volume_phase};
use crate::keys::{DRIVER, PROVISIONER};
use crate::pass::Plan;
use crate::state::State;
use crate::volume::policy;
use crate::{admit_claim, admit_volume, disk_failed, reconcile, uses};

/// No plan needs more rounds than this.
const MAX_ROUNDS: usize = 20;

pub(crate) fn object<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(crate) fn state() -> State {
    State {
        claims: Vec::new(),
        volumes: Vec::new(),
        classes: Vec::new(),
        pods: Vec::new(),
        disks: BTreeMap::new(),
        failed_disks: BTreeSet::new(),
        node: "node".to_owned(),
        now: time("2026-11-27T10:00:00Z"),
    }
}

pub(crate) fn time(text: &str) -> Time {
    object(json!(text))
}

/// A free volume for one node.
pub(crate) fn volume(name: &str, size: &str) -> PersistentVolume {
    object(json!({
        "metadata": {"name": name, "uid": format!("uid-of-{name}")},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": {"storage": size}, "hostPath": {"path": "/data"},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
        },
        "status": {"phase": "Available"},
    }))
}

/// A volume that is a disk image.
pub(crate) fn disk_volume(name: &str, disk: &str, size: &str) -> PersistentVolume {
    let mut volume = volume(name, size);
    let spec = volume.spec.as_mut().unwrap();
    spec.host_path = None;
    spec.csi = Some(object(json!({"driver": DRIVER, "volumeHandle": disk})));
    volume
}

/// A claim that wants no class.
pub(crate) fn claim(name: &str, size: &str) -> PersistentVolumeClaim {
    object(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": format!("uid-of-{name}")},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "storageClassName": "",
            "volumeMode": "Filesystem",
        },
        "status": {"phase": "Pending"},
    }))
}

/// A claim of this class.
pub(crate) fn claim_of(class: &str, name: &str, size: &str) -> PersistentVolumeClaim {
    let mut claim = claim(name, size);
    claim.spec.as_mut().unwrap().storage_class_name = Some(class.to_owned());
    claim
}

/// A class that provisions disks.
pub(crate) fn class(name: &str, mode: &str) -> StorageClass {
    object(json!({
        "metadata": {"name": name, "creationTimestamp": "2026-11-27T09:00:00Z"}, "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete", "volumeBindingMode": mode, "allowVolumeExpansion": true,
    }))
}

/// A Pod that wants to start, with these claims.
pub(crate) fn pod(name: &str, claims: &[&str]) -> Pod {
    let volumes: Vec<Value> = claims
        .iter()
        .map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    object(json!({
        "metadata": {
            "name": name, "namespace": "shop", "uid": format!("uid-of-{name}"), "creationTimestamp": "2026-11-27T09:30:00Z",
        },
        "spec": {"containers": [], "volumes": volumes, "nodeName": "node"},
        "status": {"phase": "Pending"},
    }))
}

/// A node whose objects and disks follow the rules.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub state: State,
    /// All events so far.
    pub events: Vec<String>,
    /// All disks that were ever deleted.
    pub deleted: Vec<String>,
    /// All disks that were created for volumes with the policy `Retain`.
    pub kept: HashSet<String>,
    /// The error of all work on disks.
    pub disk_error: Option<&'static str>,
    /// The only disk with that error, unless all have it.
    pub faulty_disk: Option<&'static str>,
    /// Whether file systems grow only when a Pod starts.
    pub grows_later: bool,
    version: u64,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            state: state(),
            events: Vec::new(),
            deleted: Vec::new(),
            kept: HashSet::new(),
            disk_error: None,
            faulty_disk: None,
            grows_later: false,
            version: 1,
        }
    }
}

impl Node {
    pub(crate) fn with(classes: &[StorageClass]) -> Self {
        let mut node = Self::default();
        node.state.classes = classes.to_vec();
        node
    }

    pub(crate) fn add_claim(&mut self, mut claim: PersistentVolumeClaim) -> &mut Self {
        admit_claim(&mut claim, &self.state.classes);
        self.created(&mut claim.metadata);
        claim.status = object(json!({"phase": "Pending"}));
        self.state.claims.push(claim);
        self
    }

    pub(crate) fn add_volume(&mut self, mut volume: PersistentVolume) -> &mut Self {
        admit_volume(&mut volume).unwrap();
        self.created(&mut volume.metadata);
        volume.status = object(json!({"phase": "Pending"}));
        self.state.volumes.push(volume);
        self
    }

    pub(crate) fn add_pod(&mut self, pod: Pod) -> &mut Self {
        self.state.pods.push(pod);
        self
    }

    pub(crate) fn remove_pod(&mut self, name: &str) -> &mut Self {
        self.state.pods.retain(|pod| text(&pod.metadata.name) != name);
        self
    }

    /// Requests the deletion of a claim.
    pub(crate) fn delete_claim(&mut self, name: &str) -> &mut Self {
        let now = self.state.now.clone();
        for claim in self
            .state
            .claims
            .iter_mut()
            .filter(|own| text(&own.metadata.name) == name)
        {
            claim.metadata.deletion_timestamp.get_or_insert(now.clone());
        }
        self.drop_deleted();
        self
    }

    /// Requests the deletion of a volume.
    pub(crate) fn delete_volume(&mut self, name: &str) -> &mut Self {
        let now = self.state.now.clone();
        for volume in self
            .state
            .volumes
            .iter_mut()
            .filter(|own| text(&own.metadata.name) == name)
        {
            volume.metadata.deletion_timestamp.get_or_insert(now.clone());
        }
        self.drop_deleted();
        self
    }

    pub(crate) fn claim(&self, name: &str) -> &PersistentVolumeClaim {
        let mut claims = self.state.claims.iter();
        claims.find(|own| text(&own.metadata.name) == name).unwrap()
    }

    pub(crate) fn claim_mut(&mut self, name: &str) -> &mut PersistentVolumeClaim {
        let mut claims = self.state.claims.iter_mut();
        claims.find(|own| text(&own.metadata.name) == name).unwrap()
    }

    pub(crate) fn volume(&self, name: &str) -> &PersistentVolume {
        let mut volumes = self.state.volumes.iter();
        volumes.find(|own| text(&own.metadata.name) == name).unwrap()
    }

    pub(crate) fn volume_mut(&mut self, name: &str) -> &mut PersistentVolume {
        let mut volumes = self.state.volumes.iter_mut();
        volumes.find(|own| text(&own.metadata.name) == name).unwrap()
    }

    pub(crate) fn has_volume(&self, name: &str) -> bool {
        let mut volumes = self.state.volumes.iter();
        volumes.any(|own| text(&own.metadata.name) == name)
    }

    /// The phases of all claims and volumes: `data=Bound`.
    pub(crate) fn phases(&self) -> Vec<String> {
        let claims = self.state.claims.iter();
        let claims = claims.map(|own| format!("{}={}", text(&own.metadata.name), claim_phase(own)));
        let volumes = self.state.volumes.iter();
        let volumes = volumes.map(|own| format!("{}={}", text(&own.metadata.name), volume_phase(own)));
        claims.chain(volumes).collect()
    }

    /// Takes the events so far.
    pub(crate) fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    /// Reconciles until nothing changes.
    pub(crate) fn settle(&mut self) -> &mut Self {
        self.state.failed_disks.clear();
        for _ in 0..MAX_ROUNDS {
            let plan = reconcile(&self.state);
            if plan.changes.is_empty() {
                self.events.extend(plan.waiting.iter().map(ToString::to_string));
                return self;
            }
            let steps = plan.changes.len();
            self.carry_out(plan, steps);
        }
        panic!("no end: {:#?}", reconcile(&self.state).changes);
    }

    /// Carries out the first steps of a plan.
    pub(crate) fn carry_out(&mut self, plan: Plan, steps: usize) {
        for step in plan.changes.into_iter().take(steps) {
            let (Some(disk), Some(error)) = (disk_in(&step), self.disk_error) else {
                self.step(step);
                continue;
            };
            if self.faulty_disk.is_some_and(|faulty| faulty != disk) {
                self.step(step);
                continue;
            }
            for instead in disk_failed(&self.state, &step, error) {
                self.step(instead);
            }
            self.state.failed_disks.insert(disk);
        }
    }

    fn step(&mut self, step: Change) {
        match step {
            Change::CreateClaim(claim) => {
                self.add_claim(*claim);
            }
            Change::CreateVolume(volume) => {
                self.add_volume(*volume);
            }
            Change::UpdateClaim(new) => {
                let version = self.next_version();
                let key: Key = key(&new.metadata);
                let own = self
                    .state
                    .claims
                    .iter_mut()
                    .find(|own| crate::fields::key(&own.metadata) == key);
                let own = own.unwrap();
                assert_eq!(own.metadata.resource_version, new.metadata.resource_version, "outdated");
                *own = *new;
                own.metadata.resource_version = Some(version);
            }
            Change::UpdateVolume(new) => {
                let version = self.next_version();
                let own = self.volume_mut(text(&new.metadata.name));
                assert_eq!(own.metadata.resource_version, new.metadata.resource_version, "outdated");
                *own = *new;
                own.metadata.resource_version = Some(version);
            }
            Change::DeleteClaim { name, uid, .. } => {
                assert_eq!(self.claim(&name).metadata.uid, Some(uid));
                self.delete_claim(&name);
            }
            Change::DeleteVolume { name, uid } => {
                assert_eq!(self.volume(&name).metadata.uid, Some(uid));
                self.delete_volume(&name);
            }
            Change::CreateDisk(disk) => {
                let new = Disk {
                    bytes: disk.bytes,
                    has_smaller_file_system: false,
                };
                if policy(self.volume(&disk.volume)) == "Retain" {
                    self.kept.insert(disk.disk.clone());
                }
                assert_eq!(self.state.disks.insert(disk.disk, new), None);
            }
            Change::GrowDisk(disk) => {
                let own = self.state.disks.get_mut(&disk.disk).unwrap();
                assert!(own.bytes < disk.bytes);
                own.bytes = disk.bytes;
                own.has_smaller_file_system = self.grows_later;
            }
            Change::DeleteDisk(disk) => {
                let is_bound =
                    |claim: &&PersistentVolumeClaim| claim_phase(claim) == "Bound" && volume_name(claim) == disk.volume;
                let users: Vec<_> = self.state.claims.iter().filter(is_bound).collect();
                assert!(users.is_empty(), "the disk of a bound claim is deleted: {users:?}");
                assert!(self.state.disks.remove(&disk.disk).is_some());
                self.deleted.push(disk.disk);
            }
            Change::Event(event) => self.events.push(event.to_string()),
        }
        self.drop_deleted();
    }

    fn created(&mut self, metadata: &mut ObjectMeta) {
        metadata.resource_version = Some(self.next_version());
        if metadata.uid.is_none() {
            metadata.uid = Some(format!("uid-{}", self.version));
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Removes objects that are deleted and have no finalizers.
    fn drop_deleted(&mut self) {
        let stays = |metadata: &ObjectMeta| metadata.deletion_timestamp.is_none() || metadata.finalizers.is_some();
        for claim in self.state.claims.iter().filter(|own| !stays(&own.metadata)) {
            let users = self.state.pods.iter().filter(|pod| uses(pod, claim)).count();
            assert_eq!(users, 0, "a claim in use is removed");
        }
        self.state.claims.retain(|own| stays(&own.metadata));
        self.state.volumes.retain(|own| stays(&own.metadata));
    }
}

/// The disk that a step works on.
fn disk_in(step: &Change) -> Option<String> {
    match step {
        Change::CreateDisk(own) | Change::GrowDisk(own) | Change::DeleteDisk(own) => Some(own.disk.clone()),
        _ => None,
    }
}
