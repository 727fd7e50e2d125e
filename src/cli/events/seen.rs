//! The events that a command line selects: those of Pods in their records, those of other objects in the node's file.

use std::collections::BTreeMap;
use std::time::SystemTime;

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
        let mut seen = self.of_objects(paths, complain);
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
    pub(super) fn of_objects(&self, paths: &Paths, complain: &mut dyn FnMut(anyhow::Error)) -> Vec<Seen> {
        let events = match object_events(paths, SystemTime::now()) {
            Ok(events) => events,
            Err(error) => {
                complain(error.into());
                return Vec::new();
            }
        };
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
        seen.filter(|seen| self.is_selected(seen)).collect()
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

/// The counts of the events of one object, by reason, message and field.
type Counts = BTreeMap<(String, String, Option<String>), u32>;

/// The events that a watch has shown.
#[derive(Debug, Default)]
pub(super) struct Shown {
    by_uid: BTreeMap<String, Counts>,
}

impl Shown {
    /// The events that have not been shown with their current count.
    pub(super) fn new_among(&mut self, events: Vec<Seen>) -> Vec<Seen> {
        let mut is_new = |seen: &Seen| {
            let event = &seen.event;
            let key = (event.reason.clone(), event.message.clone(), event.field_path.clone());
            let counts = self.by_uid.entry(seen.object.uid.clone()).or_default();
            counts.insert(key, event.count) != Some(event.count)
        };
        events.into_iter().filter(|seen| is_new(seen)).collect()
    }

    /// Forgets the events of an object that is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        self.by_uid.remove(uid);
    }
}
