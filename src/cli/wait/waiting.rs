//! Waits until objects meet a condition: checks the objects of a list, and then the events of the watch that continues
//! from there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{anyhow, bail};
use microkube_manifest::kinds::Kind;
use microkube_store::{Event, List, Object};

use super::super::failure::complain;
use super::super::objects::arguments::{Group, Requested, not_found};
use super::super::objects::listing::{Reader, is_selected, kind_of, report};
use super::super::objects::name::ObjectName;
use super::condition::Condition;

/// An object that has not met the condition yet.
#[derive(Debug)]
enum Awaited {
    /// An object that existed. A new object of the same name does not count.
    Existing {
        kind: &'static Kind,
        name: ObjectName,
        uid: String,
    },
    /// An object that does not exist yet.
    Missing { kind: &'static Kind, name: ObjectName },
    /// Any selected object of these kinds.
    First { groups: Vec<Group> },
}

/// The result of checking an event for an awaited object.
pub(super) enum Check {
    Met,
    NotYet,
    Failed(anyhow::Error),
}

/// Waits for all requested objects and reports each that meets the condition. Returns why the others did not.
pub(super) fn wait(
    reader: &Reader,
    requested: &Requested,
    condition: &Condition,
    timeout: Duration,
    met: &mut dyn FnMut(&Kind, &Object) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<anyhow::Error>> {
    let deadline = Instant::now() + timeout;
    let groups = requested.by_kind();
    let (lists, mut watch) = reader.follow(&groups, requested)?;
    let (mut awaited, mut failures) = (Vec::new(), Vec::new());
    let mut are_none = true;
    for (group, list) in groups.iter().zip(lists) {
        are_none &= list.items.is_empty() && list.damaged.is_empty();
        for object in selected(group, &list, requested) {
            if condition.is_met(object.value())? {
                met(group.kind, object)?;
            } else {
                awaited.push(Awaited::existing(group.kind, object));
            }
        }
        begin_without(group, list, condition, &mut awaited, &mut failures);
    }
    let are_none = awaited.is_empty() && failures.is_empty() && are_none;
    if are_none && !requested.has_names() {
        match condition {
            Condition::Delete => {}
            Condition::Create => awaited.push(Awaited::First { groups }),
            _ => bail!("no matching resources found"),
        }
    }
    while !awaited.is_empty() {
        let event = match watch.next_until(Some(deadline)) {
            Ok(Some(event)) => event,
            Ok(None) => break,
            // The watch continues.
            Err(error) if error.is_about_one_object() => {
                complain(&report(error));
                continue;
            }
            Err(error) => return Err(report(error)),
        };
        let object = event.object();
        let Some(kind) = kind_of(object) else { continue };
        let mut still = Vec::new();
        for one in awaited {
            let check = match one.is(kind, object, requested) {
                true => check(kind, &event, condition)?,
                false => Check::NotYet,
            };
            match check {
                Check::Met => met(kind, object)?,
                Check::NotYet => still.push(one),
                Check::Failed(error) => failures.push(error),
            }
        }
        awaited = still;
    }
    failures.extend(awaited.iter().map(Awaited::timed_out));
    Ok(failures)
}

/// The requested objects of a list.
fn selected<'l>(group: &Group, list: &'l List, requested: &Requested) -> Vec<&'l Arc<Object>> {
    let is_requested = |object: &&Arc<Object>| group.names(object) && is_selected(object, requested);
    list.items.iter().filter(is_requested).collect()
}

/// Handles the names without an object, and adds why objects cannot be read.
fn begin_without(
    group: &Group,
    list: List,
    condition: &Condition,
    awaited: &mut Vec<Awaited>,
    failures: &mut Vec<anyhow::Error>,
) {
    let is_missing = |name: &&ObjectName| !list.items.iter().any(|object| name.is(object));
    let missing: Vec<&ObjectName> = group.names.iter().filter(is_missing).collect();
    if !missing.is_empty() || group.names.is_empty() {
        // An object that cannot be read may be requested.
        failures.extend(list.damaged.into_iter().map(report));
    }
    for name in missing {
        match condition {
            Condition::Create => awaited.push(Awaited::Missing {
                kind: group.kind,
                name: name.clone(),
            }),
            // A missing object counts as deleted; kubectl prints nothing about it.
            Condition::Delete => {}
            _ => failures.push(not_found(group.kind, &name.name)),
        }
    }
}

/// Checks whether an object meets the condition after an event.
pub(super) fn check(kind: &'static Kind, event: &Event, condition: &Condition) -> anyhow::Result<Check> {
    let object = event.object();
    Ok(match (event, condition) {
        (Event::Deleted(_), Condition::Delete) => Check::Met,
        (Event::Deleted(_), Condition::Create) => Check::NotYet,
        (Event::Deleted(_), _) => Check::Failed(not_found(kind, object.name())),
        _ if condition.is_met(object.value())? => Check::Met,
        _ => Check::NotYet,
    })
}

impl Awaited {
    fn existing(kind: &'static Kind, object: &Object) -> Self {
        Self::Existing {
            kind,
            name: ObjectName {
                namespace: object.namespace().map(str::to_owned),
                name: object.name().to_owned(),
            },
            uid: object.uid().to_owned(),
        }
    }

    /// Whether this is the awaited object.
    fn is(&self, of_kind: &Kind, object: &Arc<Object>, requested: &Requested) -> bool {
        match self {
            Self::Existing { kind, name, uid } => {
                kind.kind == of_kind.kind && name.is(object) && object.uid() == uid.as_str()
            }
            Self::Missing { kind, name } => kind.kind == of_kind.kind && name.is(object),
            Self::First { groups } => {
                let mut of_kind = groups.iter().filter(|group| group.kind.kind == of_kind.kind);
                of_kind.any(|group| group.names(object)) && is_selected(object, requested)
            }
        }
    }

    fn timed_out(&self) -> anyhow::Error {
        let what = match self {
            Self::Existing { kind, name, .. } | Self::Missing { kind, name } => {
                format!("{}/{}", kind.plural, name.name)
            }
            Self::First { groups } => {
                let plurals: Vec<&str> = groups.iter().map(|group| group.kind.plural).collect();
                plurals.join(",")
            }
        };
        anyhow!("timed out waiting for the condition on {what}")
    }
}
