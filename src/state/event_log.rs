//! The events of a Pod, as `kubectl describe` and `kubectl events` show them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::format_version::{POD_RECORDS_VERSION, RecordFormat};
use super::record::{self, Lifetime, RecordError};

/// Maximum number of events kept for a Pod; those seen least recently are dropped.
pub const MAX_EVENTS: usize = 200;

/// Longest message that is kept, in bytes (Kubernetes' limit for `note`). Containers and registries influence messages.
pub const MAX_MESSAGE_BYTES: usize = 1024;

/// An event of a Pod, with its number of occurrences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// Whether its type is `Warning` instead of `Normal`.
    pub warning: bool,
    /// `Pulled`, `BackOff`, `Unhealthy`, …
    pub reason: String,
    /// A message for people.
    pub message: String,
    /// The part of the Pod that it is about, such as `spec.containers{web}`.
    pub field_path: Option<String>,
    pub count: u32,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
}

/// The content of the file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct EventRecords {
    events: Vec<EventRecord>,
}

impl RecordFormat for EventRecords {
    const VERSION: u32 = POD_RECORDS_VERSION;

    fn decode(version: u32, content: &[u8]) -> serde_json::Result<Self> {
        match version {
            // Version 0 contains only the list.
            0 => serde_json::from_slice(content).map(|events| Self { events }),
            _ => serde_json::from_slice(content),
        }
    }
}

/// The events of a Pod, in a file that is replaced as a whole.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    kept: EventRecords,
    lifetime: Lifetime,
}

impl EventLog {
    /// Reads the existing events; a missing file has none.
    ///
    /// # Errors
    /// [`RecordError`] names the file.
    pub fn open(path: &Path) -> Result<Self, RecordError> {
        let events = read(path)?;
        Ok(Self {
            path: path.to_owned(),
            kept: EventRecords { events },
            lifetime: Lifetime::Pod,
        })
    }

    /// Sets how durable the events are.
    #[must_use]
    pub fn lasting(self, lifetime: Lifetime) -> Self {
        Self { lifetime, ..self }
    }

    /// Records an event. An event with the same reason, message and field as an earlier one increases its count.
    ///
    /// # Errors
    /// [`RecordError::Io`]. The event is in [`Self::list`] anyway, and in the file after the next successful
    /// call.
    pub fn add(
        &mut self,
        warning: bool,
        reason: &str,
        message: &str,
        field_path: Option<String>,
        now: SystemTime,
    ) -> Result<(), RecordError> {
        let message = bounded(message);
        // An event is kept even if the clock is off by thousands of years.
        let now = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH);
        let same = |event: &&mut EventRecord| {
            event.reason == reason && event.message == message && event.field_path == field_path
        };
        let events = &mut self.kept.events;
        if let Some(event) = events.iter_mut().find(same) {
            event.warning = warning;
            event.count = event.count.saturating_add(1);
            event.last_seen = event.last_seen.max(now);
        } else {
            let now = unused_time(events.iter(), now);
            events.push(EventRecord {
                warning,
                reason: reason.to_owned(),
                message: message.to_owned(),
                field_path,
                count: 1,
                first_seen: now,
                last_seen: now,
            });
        }
        while events.len() > MAX_EVENTS {
            let oldest = events.iter().enumerate().min_by_key(|(_, event)| event.last_seen);
            let Some((index, _)) = oldest else { break };
            events.remove(index);
        }
        record::replace_record_for(self.lifetime, &self.path, &self.kept)
    }

    /// The events, in the order in which they first occurred.
    #[must_use]
    pub fn list(&self) -> &[EventRecord] {
        &self.kept.events
    }
}

/// Reads the events in a file.
pub(super) fn read(path: &Path) -> Result<Vec<EventRecord>, RecordError> {
    Ok(record::read_record::<EventRecords>(path)?.unwrap_or_default().events)
}

/// The first time, from `now` on, at which none of these events was first seen. `metadata.name` of an event consists of the
/// name of its object and this time.
pub(super) fn unused_time<'e>(events: impl Iterator<Item = &'e EventRecord>, now: Timestamp) -> Timestamp {
    let used: BTreeSet<Timestamp> = events.map(|event| event.first_seen).collect();
    let mut time = now;
    while used.contains(&time) {
        match time.checked_add(SignedDuration::from_nanos(1)) {
            Ok(next) => time = next,
            // The end of time.
            Err(_) => break,
        }
    }
    time
}

/// Cuts a message that is too long.
pub(super) fn bounded(message: &str) -> &str {
    let mut end = message.len().min(MAX_MESSAGE_BYTES);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(second)
    }

    fn log() -> (tempfile::TempDir, EventLog) {
        let dir = tempfile::tempdir().unwrap();
        let log = EventLog::open(&dir.path().join("events.json")).unwrap();
        (dir, log)
    }

    #[test]
    fn equal_events_are_counted_and_others_are_not() {
        let (dir, mut log) = log();
        let web = || Some("spec.containers{web}".to_owned());
        log.add(false, "Pulled", "a", web(), at(1)).unwrap();
        log.add(true, "BackOff", "b", web(), at(5)).unwrap();
        log.add(true, "BackOff", "b", web(), at(9)).unwrap();
        log.add(true, "BackOff", "b", None, at(9)).unwrap();
        let again = EventLog::open(&dir.path().join("events.json")).unwrap();
        assert_eq!(again.list(), log.list());
        let shown: Vec<_> = log
            .list()
            .iter()
            .map(|event| {
                (
                    event.reason.as_str(),
                    event.count,
                    event.first_seen.as_second(),
                    event.last_seen.as_second(),
                )
            })
            .collect();
        assert_eq!(shown, [("Pulled", 1, 1, 1), ("BackOff", 2, 5, 9), ("BackOff", 1, 9, 9)]);
    }

    #[test]
    fn events_of_the_same_moment_have_different_times() {
        let (_dir, mut log) = log();
        for reason in ["Scheduled", "Pulling", "Scheduled", "Pulled"] {
            log.add(false, reason, "m", None, at(1)).unwrap();
        }
        let first_seen: Vec<_> = log
            .list()
            .iter()
            .map(|event| event.first_seen.as_nanosecond())
            .collect();
        assert_eq!(first_seen, [1_000_000_000, 1_000_000_001, 1_000_000_002]);
        log.add(false, "Pulled", "m", None, at(1)).unwrap();
        assert!(log.list().iter().all(|event| event.first_seen <= event.last_seen));
    }

    #[test]
    fn the_least_recently_seen_event_is_dropped_first() {
        let (_dir, mut log) = log();
        for second in 0..200 {
            log.add(false, "Started", &format!("m{second}"), None, at(second))
                .unwrap();
        }
        log.add(false, "Started", "m0", None, at(300)).unwrap();
        log.add(false, "Started", "new", None, at(301)).unwrap();
        let messages: Vec<_> = log.list().iter().map(|event| event.message.as_str()).collect();
        assert_eq!(messages.len(), MAX_EVENTS);
        assert!(messages.contains(&"m0") && !messages.contains(&"m1") && messages.contains(&"new"));
    }

    #[test]
    fn a_damaged_file_is_reported_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.json");
        std::fs::write(&path, "[{]").unwrap();
        assert!(
            EventLog::open(&path)
                .unwrap_err()
                .to_string()
                .contains("events.json is damaged")
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn added_events_are_read_back_within_limits_and_counted_once(
            added in proptest::collection::vec((0_u64..100, "[ab]", ".{0,3}", proptest::option::of("[xy]")), 1..12),
            long in ".{0,2000}",
        ) {
            let (dir, mut log) = log();
            for (second, reason, message, field) in &added {
                log.add(true, reason, message, field.clone(), at(*second)).unwrap();
            }
            log.add(false, "long", &long, None, at(100)).unwrap();
            let again = EventLog::open(&dir.path().join("events.json")).unwrap();
            prop_assert_eq!(again.list(), log.list());
            let total: u32 = again.list().iter().map(|event| event.count).sum();
            prop_assert_eq!(usize::try_from(total).unwrap(), added.len() + 1);
            for event in again.list() {
                prop_assert!(event.message.len() <= MAX_MESSAGE_BYTES && event.first_seen <= event.last_seen);
            }
        }

        #[test]
        fn any_content_of_the_file_is_read_or_refused(content in proptest::collection::vec(any::<u8>(), 0..200)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("events.json");
            std::fs::write(&path, content).unwrap();
            let _ = EventLog::open(&path);
        }
    }
}
