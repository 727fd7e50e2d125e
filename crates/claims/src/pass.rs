//! The objects while the rules are applied once: their next content, and the other changes.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};

use crate::change::{About, Change, DiskChange, Event};
use crate::disk::{Disk, disk_of};
use crate::fields::{Key, key, text};
use crate::pod_claims::pod_claims;
use crate::state::State;

/// `v1.EventSource` of the controllers.
pub(crate) const VOLUME_CONTROLLER: &str = "persistentvolume-controller";
pub(crate) const EPHEMERAL_CONTROLLER: &str = "ephemeral_volume";
pub(crate) const EXPAND_CONTROLLER: &str = "volume_expand";
pub(crate) const SCHEDULER: &str = "default-scheduler";

/// One application of the rules.
#[derive(Debug)]
pub(crate) struct Pass<'s> {
    pub state: &'s State,
    pub claims: BTreeMap<Key, PersistentVolumeClaim>,
    pub volumes: BTreeMap<String, PersistentVolume>,
    /// The Pods that name a claim.
    users: HashMap<Key, Vec<&'s Pod>>,
    /// How many volumes refer to a disk.
    disk_users: HashMap<String, usize>,
    creations: Vec<Change>,
    deletions: Vec<Change>,
    disk_changes: Vec<Change>,
    events: Vec<Event>,
    waiting: Vec<Event>,
}

/// The changes that the rules ask for, and the events about objects that wait.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// The steps, in order.
    pub changes: Vec<Change>,
    /// Why claims are not bound, and Pods cannot start. To be reported when there are no more changes.
    pub waiting: Vec<Event>,
}

impl<'s> Pass<'s> {
    pub(crate) fn new(state: &'s State) -> Self {
        let mut users: HashMap<Key, Vec<&Pod>> = HashMap::new();
        for pod in &state.pods {
            for own in pod_claims(pod) {
                users.entry(own.key).or_default().push(pod);
            }
        }
        let mut disk_users: HashMap<String, usize> = HashMap::new();
        for disk in state.volumes.iter().filter_map(disk_of) {
            *disk_users.entry(disk.to_owned()).or_default() += 1;
        }
        let claims = state.claims.iter().map(|claim| (key(&claim.metadata), claim.clone()));
        let volumes = state.volumes.iter();
        let volumes = volumes.map(|volume| (text(&volume.metadata.name).to_owned(), volume.clone()));
        Self {
            state,
            claims: claims.collect(),
            volumes: volumes.collect(),
            users,
            disk_users,
            creations: Vec::new(),
            deletions: Vec::new(),
            disk_changes: Vec::new(),
            events: Vec::new(),
            waiting: Vec::new(),
        }
    }

    /// The Pods that name this claim, including those whose ephemeral volume would have this name.
    pub(crate) fn users(&self, claim: &Key) -> &[&'s Pod] {
        self.users.get(claim).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn put_claim(&mut self, claim: PersistentVolumeClaim) {
        self.claims.insert(key(&claim.metadata), claim);
    }

    pub(crate) fn put_volume(&mut self, volume: PersistentVolume) {
        self.volumes.insert(text(&volume.metadata.name).to_owned(), volume);
    }

    /// The disk of a volume, if it is a disk image that exists.
    pub(crate) fn disk(&self, volume: &PersistentVolume) -> Option<Disk> {
        disk_of(volume).and_then(|name| self.state.disks.get(name)).copied()
    }

    /// Whether another volume refers to the same disk.
    pub(crate) fn shares_disk(&self, volume: &PersistentVolume) -> bool {
        let users = disk_of(volume).and_then(|disk| self.disk_users.get(disk));
        users.is_some_and(|users| *users > 1)
    }

    /// Adds work on a volume's disk, unless it has failed.
    pub(crate) fn change_disk(&mut self, volume: &PersistentVolume, bytes: u64, change: fn(DiskChange) -> Change) {
        let Some(disk) = disk_of(volume).filter(|disk| !self.state.failed_disks.contains(*disk)) else {
            return;
        };
        let change = change(DiskChange {
            volume: text(&volume.metadata.name).to_owned(),
            disk: disk.to_owned(),
            bytes,
        });
        if !self.disk_changes.contains(&change) {
            self.disk_changes.push(change);
        }
    }

    pub(crate) fn create(&mut self, change: Change) {
        self.creations.push(change);
    }

    pub(crate) fn delete(&mut self, change: Change) {
        self.deletions.push(change);
    }

    /// Adds an event about something that has changed.
    pub(crate) fn event(
        &mut self,
        about: About,
        is_warning: bool,
        reason: &'static str,
        message: impl Into<String>,
        component: &'static str,
    ) {
        self.events
            .push(event(about, is_warning, reason, message.into(), component));
    }

    /// Adds an event about something that stays as it is.
    pub(crate) fn wait(
        &mut self,
        about: About,
        is_warning: bool,
        reason: &'static str,
        message: impl Into<String>,
        component: &'static str,
    ) {
        self.waiting
            .push(event(about, is_warning, reason, message.into(), component));
    }

    pub(crate) fn wait_as(&mut self, event: Event) {
        self.waiting.push(event);
    }

    /// The steps: new objects and changed volumes before the claims that refer to them, disks after the objects that
    /// describe them.
    pub(crate) fn finish(self) -> Plan {
        let mut changes = self.creations;
        let mut volumes = self.volumes;
        for old in &self.state.volumes {
            let new = volumes.remove(text(&old.metadata.name));
            changes.extend(
                new.filter(|new| new != old)
                    .map(|new| Change::UpdateVolume(Box::new(new))),
            );
        }
        let mut claims = self.claims;
        for old in &self.state.claims {
            let new = claims.remove(&key(&old.metadata));
            changes.extend(
                new.filter(|new| new != old)
                    .map(|new| Change::UpdateClaim(Box::new(new))),
            );
        }
        changes.extend(self.deletions);
        changes.extend(self.disk_changes);
        changes.extend(self.events.into_iter().map(Change::Event));
        Plan {
            changes,
            waiting: self.waiting,
        }
    }
}

pub(crate) fn event(
    about: About,
    is_warning: bool,
    reason: &'static str,
    message: String,
    component: &'static str,
) -> Event {
    Event {
        about,
        is_warning,
        reason,
        message,
        component,
    }
}
