//! The events about objects other than Pods, in one file for the node. Those about a Pod are among its records.
//!
//! As in Kubernetes, an event disappears an hour after it last happened, whether its object still exists or not. The file is
//! written under the lock of claims.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use microkube_base::private_directory;
use serde::{Deserialize, Serialize};

use super::event_log::{EventRecord, bounded, unused_time};
use super::format_version::RecordFormat;
use super::paths::Paths;
use super::record::{self, Lifetime, RecordError};

/// Maximum number of events that are kept; those seen least recently are dropped.
const MAX_OBJECT_EVENTS: usize = 1000;

/// How long an event is kept after it has last happened (`--event-ttl` of kube-apiserver).
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);

/// An event about a state that lasts counts again after this time: how often Kubernetes' controller looks at each claim
/// (`--pvclaimbinder-sync-period` of kube-controller-manager).
const REPEATED_AFTER: SignedDuration = SignedDuration::from_secs(15);

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvolvedObject {
    pub kind: String,
    pub namespace: Option<String>,
    pub name: String,
    pub uid: String,
}

/// An event about an object other than a Pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectEvent {
    pub object: InvolvedObject,
    /// The part of Kubernetes that reports such events.
    pub component: String,
    #[serde(flatten)]
    pub event: EventRecord,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub struct Occurrence<'o> {
    pub warning: bool,
    pub reason: &'o str,
    pub message: &'o str,
    pub component: &'o str,
    /// Whether it is a state that lasts, and not something that has just happened.
    pub lasts: bool,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct ObjectEvents {
    events: Vec<ObjectEvent>,
}

impl RecordFormat for ObjectEvents {
    const VERSION: u32 = 1;
}

/// The events, to which a writer adds some.
#[derive(Debug)]
pub struct ObjectEventLog {
    path: PathBuf,
    kept: ObjectEvents,
    is_changed: bool,
}

/// The file with the events about objects.
fn object_events_path(paths: &Paths) -> PathBuf {
    paths.events().join("objects.json")
}

/// The events about objects that have not disappeared yet, in the order in which they first occurred.
///
/// # Errors
/// [`RecordError`] names the file.
pub fn object_events(paths: &Paths, now: SystemTime) -> Result<Vec<ObjectEvent>, RecordError> {
    let mut kept = read(&object_events_path(paths))?;
    drop_old(&mut kept.events, timestamp(now));
    Ok(kept.events)
}

fn read(path: &Path) -> Result<ObjectEvents, RecordError> {
    Ok(record::read_record::<ObjectEvents>(path)?.unwrap_or_default())
}

fn timestamp(now: SystemTime) -> Timestamp {
    // An event is kept even if the clock is off by thousands of years.
    Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn drop_old(events: &mut Vec<ObjectEvent>, now: Timestamp) {
    events.retain(|kept| now.duration_since(kept.event.last_seen) < KEPT_FOR);
}

impl ObjectEventLog {
    /// Reads the existing events. A damaged file counts as empty, because events are only for people.
    ///
    /// # Errors
    /// [`RecordError`] names the file.
    pub fn open(paths: &Paths) -> Result<Self, RecordError> {
        let path = object_events_path(paths);
        let kept = match read(&path) {
            Err(error) if error.damaged_path().is_some() => ObjectEvents::default(),
            read => read?,
        };
        Ok(Self {
            path,
            kept,
            is_changed: false,
        })
    }

    /// Adds an event. The same event about the same object increases the count of the earlier one.
    pub fn add(&mut self, object: &InvolvedObject, occurrence: Occurrence<'_>, now: SystemTime) {
        let Occurrence { reason, component, .. } = occurrence;
        let message = bounded(occurrence.message);
        let now = timestamp(now);
        let events = &mut self.kept.events;
        drop_old(events, now);
        let same = |kept: &&mut ObjectEvent| {
            kept.object == *object
                && kept.component == component
                && kept.event.reason == reason
                && kept.event.message == message
        };
        if let Some(ObjectEvent { event, .. }) = events.iter_mut().find(same) {
            let age = now.duration_since(event.last_seen);
            // The clock may have been set back.
            if occurrence.lasts && !age.is_negative() && age < REPEATED_AFTER {
                return;
            }
            event.warning = occurrence.warning;
            event.count = event.count.saturating_add(1);
            event.last_seen = event.last_seen.max(now);
        } else {
            // Objects of different kinds can have the same name.
            let now = unused_time(events.iter().map(|kept| &kept.event), now);
            events.push(ObjectEvent {
                object: object.clone(),
                component: component.to_owned(),
                event: EventRecord {
                    warning: occurrence.warning,
                    reason: reason.to_owned(),
                    message: message.to_owned(),
                    field_path: None,
                    count: 1,
                    first_seen: now,
                    last_seen: now,
                },
            });
        }
        while events.len() > MAX_OBJECT_EVENTS {
            let oldest = events.iter().enumerate().min_by_key(|(_, kept)| kept.event.last_seen);
            let Some((index, _)) = oldest else { break };
            events.remove(index);
        }
        self.is_changed = true;
    }

    /// Writes the events, if any was added. They need not survive a crash of the host.
    ///
    /// # Errors
    /// [`RecordError`] names the file.
    pub fn save(&self) -> Result<(), RecordError> {
        if !self.is_changed {
            return Ok(());
        }
        if let Some(directory) = self.path.parent() {
            private_directory::create(directory).map_err(|source| RecordError::Io {
                action: "create",
                path: directory.to_owned(),
                source,
            })?;
        }
        record::replace_record_for(Lifetime::Boot, &self.path, &self.kept)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::event_log::MAX_MESSAGE_BYTES;
    use super::*;

    struct Node {
        _directory: tempfile::TempDir,
        paths: Paths,
    }

    impl Node {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let paths = Paths::new(directory.path().join("state"), directory.path().join("run"));
            Self {
                _directory: directory,
                paths,
            }
        }

        fn add(&self, name: &str, message: &str, lasts: bool, second: u64) {
            let mut log = ObjectEventLog::open(&self.paths).unwrap();
            let occurrence = Occurrence {
                warning: false,
                reason: "WaitForFirstConsumer",
                message,
                component: "persistentvolume-controller",
                lasts,
            };
            log.add(&claim(name), occurrence, at(second));
            log.save().unwrap();
        }

        /// Names and counts.
        fn shown(&self, second: u64) -> Vec<(String, u32)> {
            let events = object_events(&self.paths, at(second)).unwrap();
            let shown = events.into_iter();
            shown.map(|kept| (kept.object.name, kept.event.count)).collect()
        }
    }

    fn claim(name: &str) -> InvolvedObject {
        InvolvedObject {
            kind: "PersistentVolumeClaim".to_owned(),
            namespace: Some("default".to_owned()),
            name: name.to_owned(),
            uid: format!("uid-{name}"),
        }
    }

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second)
    }

    #[test]
    fn events_are_counted_and_disappear_after_an_hour() {
        let node = Node::new();
        assert!(node.shown(0).is_empty());
        node.add("a", "done", false, 0);
        node.add("a", "done", false, 1);
        node.add("b", "done", false, 100);
        assert_eq!(node.shown(3600), [("a".to_owned(), 2), ("b".to_owned(), 1)]);
        assert_eq!(node.shown(3601), [("b".to_owned(), 1)]);
        node.add("a", "done", false, 3700);
        assert_eq!(
            node.shown(3700),
            [("a".to_owned(), 1)],
            "it happens for the first time again"
        );
    }

    #[test]
    fn a_state_that_lasts_counts_as_often_as_kubernetes_looks_at_it() {
        let node = Node::new();
        for second in [0, 1, 14, 15, 20, 29, 30] {
            node.add("a", "waiting", true, second);
        }
        assert_eq!(node.shown(30), [("a".to_owned(), 3)]);
        // The clock was set back.
        node.add("a", "waiting", true, 10);
        assert_eq!(node.shown(30), [("a".to_owned(), 4)]);
    }

    #[test]
    fn events_of_the_same_moment_have_different_times() {
        let node = Node::new();
        let volume = InvolvedObject {
            kind: "PersistentVolume".to_owned(),
            namespace: None,
            ..claim("a")
        };
        for message in ["one", "two"] {
            node.add("a", message, false, 0);
        }
        let mut log = ObjectEventLog::open(&node.paths).unwrap();
        let occurrence = Occurrence {
            warning: false,
            reason: "WaitForFirstConsumer",
            message: "one",
            component: "persistentvolume-controller",
            lasts: false,
        };
        log.add(&volume, occurrence, at(0));
        log.save().unwrap();
        let events = object_events(&node.paths, at(0)).unwrap();
        let times: std::collections::BTreeSet<_> = events.iter().map(|kept| kept.event.first_seen).collect();
        assert_eq!(times.len(), 3);
    }

    #[test]
    fn the_number_and_the_length_of_events_are_limited() {
        let node = Node::new();
        let mut log = ObjectEventLog::open(&node.paths).unwrap();
        for second in 0..=MAX_OBJECT_EVENTS {
            let message = "\u{e9}".repeat(MAX_MESSAGE_BYTES);
            let occurrence = Occurrence {
                warning: true,
                reason: "ProvisioningFailed",
                message: &message,
                component: "c",
                lasts: false,
            };
            log.add(&claim(&second.to_string()), occurrence, at(second as u64));
        }
        log.save().unwrap();
        let events = object_events(&node.paths, at(MAX_OBJECT_EVENTS as u64)).unwrap();
        assert_eq!(events.len(), MAX_OBJECT_EVENTS);
        assert_eq!(events[0].object.name, "1");
        assert_eq!(events[0].event.message.len(), MAX_MESSAGE_BYTES);
    }

    #[test]
    fn a_damaged_file_is_reported_to_readers_and_replaced_by_writers() {
        let node = Node::new();
        node.add("a", "done", false, 0);
        std::fs::write(object_events_path(&node.paths), "torn").unwrap();
        let error = object_events(&node.paths, at(0)).unwrap_err();
        assert!(error.damaged_path().is_some());
        node.add("b", "done", false, 1);
        assert_eq!(node.shown(1), [("b".to_owned(), 1)]);
        std::fs::write(object_events_path(&node.paths), r#"{"version":2,"events":[]}"#).unwrap();
        assert!(ObjectEventLog::open(&node.paths).unwrap_err().newer_path().is_some());
    }
}
