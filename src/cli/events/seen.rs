//! The events that a command line selects: those of Pods in their records, those of other objects in the node's file.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jiff::Timestamp;

use crate::state::{EventRecord, InvolvedObject, ObjectEvent, Paths, PodRecord, PodRecords, object_events};

use super::super::pods::arguments::Scope;
use super::super::pods::snapshot::is_in_scope;

/// The source of the events of Pods.
pub(in crate::cli) const COMPONENT: &str = "microkube";

/// The namespace of events about objects that have none (`metav1.NamespaceDefault`).
const DEFAULT_NAMESPACE: &str = "default";

/// An event and its object.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Seen {
    pub(in crate::cli) object: InvolvedObject,
    /// The part of Kubernetes, or microkube, that reports it.
    pub(in crate::cli) component: String,
    pub(in crate::cli) event: EventRecord,
}

impl Seen {
    /// The event's own namespace.
    pub(in crate::cli) fn namespace(&self) -> &str {
        self.object.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// Which events are shown.
#[derive(Debug, Default)]
pub(in crate::cli) struct Selection {
    /// `None` means all.
    pub(in crate::cli) namespace: Option<String>,
    /// The kind and name of the only object; `None` means all.
    pub(in crate::cli) object: Option<(&'static str, String)>,
    /// Whether they are warnings. If empty, all are shown.
    pub(in crate::cli) types: Vec<bool>,
}

impl Selection {
    fn wants_kind(&self, kind: &str) -> bool {
        self.object.as_ref().is_none_or(|(own, _)| *own == kind)
    }

    fn wants_type(&self, event: &EventRecord) -> bool {
        self.types.is_empty() || self.types.contains(&event.warning)
    }

    fn pods(&self) -> Scope {
        let name = self.object.as_ref().map(|(_, name)| name.as_str());
        Scope::of_names(self.namespace.as_deref(), name)
    }

    /// The selected events of all Pods and other objects, oldest first.
    ///
    /// # Errors
    /// If the records cannot be read at all.
    pub(in crate::cli) fn read(
        &self,
        paths: &Paths,
        complain: &mut dyn FnMut(anyhow::Error),
    ) -> anyhow::Result<Vec<Seen>> {
        let mut seen = self.of_objects(paths).unwrap_or_else(|error| {
            complain(error);
            Vec::new()
        });
        if self.wants_kind("Pod") {
            let records = PodRecords::new(paths.clone());
            let (found, damaged) = records.list_all()?;
            damaged.into_iter().for_each(|error| complain(error.into()));
            for record in &found {
                match self.of_pod(&records, record) {
                    Ok(events) => seen.extend(events),
                    Err(error) => complain(error),
                }
            }
        }
        seen.sort_by_key(|seen| seen.event.last_seen);
        Ok(seen)
    }

    /// The selected events of a Pod.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(super) fn of_pod(&self, records: &PodRecords, record: &PodRecord) -> anyhow::Result<Vec<Seen>> {
        if !self.wants_kind("Pod") || !is_in_scope(record, &self.pods()) {
            return Ok(Vec::new());
        }
        let events = records.events(&record.uid)?.into_iter();
        let events = events.filter(|event| self.wants_type(event)).map(|event| Seen {
            object: InvolvedObject {
                kind: "Pod".to_owned(),
                namespace: Some(record.namespace.clone()),
                name: record.name.clone(),
                uid: record.uid.clone(),
            },
            component: COMPONENT.to_owned(),
            event,
        });
        Ok(events.collect())
    }

    /// The selected events of objects other than Pods.
    ///
    /// # Errors
    /// If their file cannot be read.
    pub(super) fn of_objects(&self, paths: &Paths) -> anyhow::Result<Vec<Seen>> {
        let events = object_events(paths, SystemTime::now())?;
        let seen = events.into_iter().map(|kept| {
            let ObjectEvent {
                object,
                component,
                event,
            } = kept;
            Seen {
                object,
                component,
                event,
            }
        });
        Ok(seen.filter(|seen| self.is_selected(seen)).collect())
    }

    fn is_selected(&self, seen: &Seen) -> bool {
        let name = self.object.as_ref().map(|(_, name)| name);
        let namespace = self.namespace.as_deref();
        self.wants_kind(&seen.object.kind)
            && name.is_none_or(|name| *name == seen.object.name)
            && namespace.is_none_or(|namespace| namespace == seen.namespace())
            && self.wants_type(&seen.event)
    }
}

/// Events with the same reason, message, field and component are one that occurs repeatedly.
type Key = (String, String, Option<String>, String);

/// When an event was first seen, and its count. An event that has expired begins again with the count 1.
type Occurrences = BTreeMap<Key, (Timestamp, u32)>;

fn key(seen: &Seen) -> Key {
    let event = &seen.event;
    (
        event.reason.clone(),
        event.message.clone(),
        event.field_path.clone(),
        seen.component.clone(),
    )
}

/// The events that a watch has shown, by the uid of their object.
#[derive(Debug, Default)]
pub(super) struct Shown {
    of_pods: BTreeMap<String, Occurrences>,
    of_objects: BTreeMap<String, Occurrences>,
}

impl Shown {
    /// The events that have not been shown with their current count.
    pub(super) fn new_among(&mut self, events: Vec<Seen>) -> Vec<Seen> {
        let mut is_new = |seen: &Seen| {
            let by_uid = match seen.object.kind.as_str() {
                "Pod" => &mut self.of_pods,
                _ => &mut self.of_objects,
            };
            let current = (seen.event.first_seen, seen.event.count);
            let occurrences = by_uid.entry(seen.object.uid.clone()).or_default();
            occurrences.insert(key(seen), current) != Some(current)
        };
        events.into_iter().filter(|seen| is_new(seen)).collect()
    }

    /// Forgets the events of a Pod that is gone.
    pub(super) fn forget_pod(&mut self, uid: &str) {
        self.of_pods.remove(uid);
    }

    /// Forgets the events of objects other than Pods, except for these: all others have expired.
    pub(super) fn keep_of_objects(&mut self, events: &[Seen]) {
        let mut kept: BTreeMap<String, Occurrences> = BTreeMap::new();
        for seen in events {
            let (uid, key) = (&seen.object.uid, key(seen));
            let shown = self.of_objects.get(uid).and_then(|occurrences| occurrences.get(&key));
            if let Some(shown) = shown {
                kept.entry(uid.clone()).or_default().insert(key, *shown);
            }
        }
        self.of_objects = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn seen(kind: &str, component: &str, first_second: i64, count: u32) -> Seen {
        Seen {
            object: InvolvedObject {
                kind: kind.to_owned(),
                namespace: None,
                name: "disk".to_owned(),
                uid: format!("uid-of-{kind}"),
            },
            component: component.to_owned(),
            event: EventRecord {
                warning: true,
                reason: "VolumeFailedDelete".to_owned(),
                message: "why".to_owned(),
                field_path: None,
                count,
                first_seen: at(first_second),
                last_seen: at(first_second + 100),
            },
        }
    }

    #[test]
    fn an_event_that_has_expired_is_shown_when_it_happens_again() {
        let mut shown = Shown::default();
        let mut new = |first_second, count| {
            shown
                .new_among(vec![seen("PersistentVolume", "c", first_second, count)])
                .len()
        };
        assert_eq!(new(0, 1), 1);
        assert_eq!(new(0, 1), 0);
        assert_eq!(new(0, 2), 1);
        assert_eq!(new(4000, 2), 1, "it has the same count as the one that has expired");
        assert_eq!(new(8000, 1), 1);
    }

    #[test]
    fn equal_events_of_two_components_are_shown_once_each() {
        let mut shown = Shown::default();
        let both = || vec![seen("PersistentVolume", "a", 0, 1), seen("PersistentVolume", "b", 0, 2)];
        assert_eq!(shown.new_among(both()).len(), 2);
        assert_eq!(shown.new_among(both()).len(), 0);
    }

    #[test]
    fn what_has_expired_is_forgotten_but_not_the_events_of_pods() {
        let mut shown = Shown::default();
        let events = vec![seen("PersistentVolume", "a", 0, 1), seen("PersistentVolume", "b", 0, 1)];
        shown.new_among([events.clone(), vec![seen("Pod", COMPONENT, 0, 1)]].concat());
        shown.keep_of_objects(&events[1..]);
        assert_eq!(shown.of_objects.values().map(BTreeMap::len).sum::<usize>(), 1);
        assert_eq!(shown.new_among(events), [seen("PersistentVolume", "a", 0, 1)]);
        shown.keep_of_objects(&[]);
        assert!(shown.of_objects.is_empty());
        assert_eq!(shown.new_among(vec![seen("Pod", COMPONENT, 0, 1)]), []);
        shown.forget_pod("uid-of-Pod");
        assert!(shown.of_pods.is_empty());
    }
}
