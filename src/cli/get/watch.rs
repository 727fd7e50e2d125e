//! `get -w`: shows every change of objects of one kind, until the output is closed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use microkube_manifest::kinds::Kind;
use microkube_store::{Event, Key, Object, StoreError, Watch};
use serde_json::Value;

use super::super::failure::{Failure, complain};
use super::super::objects::arguments::{Group, Requested, not_found};
use super::super::objects::listing::{Reader, is_selected};
use super::super::objects::name::ObjectName;
use super::super::pods::format::{Format, Objects};
use super::super::pods::snapshot::{self, Snapshot};
use super::super::pods::{self, arguments::Scope};
use super::super::print::emit;
use super::super::table::Columns as Layout;
use super::arguments::{GetArgs, shown};
use crate::pod::changes::{Changed, Changes};
use crate::state::PodRecords;

/// Shows the objects, then every change.
pub(super) fn watch(reader: &Reader, requested: &Requested, args: &GetArgs) -> Result<ExitCode, Failure> {
    let Some(group) = requested.groups.first() else {
        return Ok(ExitCode::SUCCESS);
    };
    let mut output = Output::new(group.kind, requested, args);
    if group.kind.kind == "Pod" {
        let mut changes = Changes::of(reader.paths())?;
        let records = PodRecords::new(reader.paths().clone());
        let (mut pods, shown) = PodWatch::start(records, requested.pods(group), requested, args)?;
        emit(&output.text(&shown)?)?;
        loop {
            let changed = changes.wait(None, &[])?;
            emit(&output.text(&pods.after(&changed)?)?)?;
        }
    }
    let (mut objects, shown) = ObjectWatch::start(reader, group, requested, args)?;
    emit(&output.text(&shown)?)?;
    loop {
        match objects.watch.next_until(None) {
            Ok(event) => emit(&output.text(&objects.after(event.as_ref()))?)?,
            // The error concerns one object; the watch continues.
            Err(error @ StoreError::Damaged { .. }) => complain(&error.into()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The state of the output: what later rows depend on.
struct Output<'a> {
    kind: &'static Kind,
    requested: &'a Requested,
    args: &'a GetArgs,
    layout: Layout,
    has_header: bool,
}

impl<'a> Output<'a> {
    fn new(kind: &'static Kind, requested: &'a Requested, args: &'a GetArgs) -> Self {
        Self {
            kind,
            requested,
            args,
            layout: Layout::default(),
            has_header: args.show.no_headers,
        }
    }

    /// The text for the next objects.
    fn text(&mut self, objects: &[Value]) -> anyhow::Result<String> {
        let show = &self.args.show;
        let Some(format) = show.output.as_ref().filter(|_| !show.is_table()) else {
            let columns = show.columns(self.requested);
            let now = Timestamp::now();
            let rows = objects.iter().map(|object| columns.row(self.kind, object, now));
            let mut rows: Vec<Vec<String>> = rows.collect();
            if !self.has_header && !rows.is_empty() {
                rows.insert(0, columns.header(self.kind));
                self.has_header = true;
            }
            return Ok(self.layout.lines(&rows));
        };
        let mut text = String::new();
        for object in objects {
            if matches!(format, Format::Yaml) {
                text.push_str("---\n");
            }
            text += &format.print(&Objects::One(shown(object.clone(), show)), !self.has_header)?;
            self.has_header = true;
        }
        Ok(text)
    }
}

/// Pods, followed in their records.
struct PodWatch<'a> {
    records: PodRecords,
    scope: Scope,
    requested: &'a Requested,
    known: BTreeMap<String, Value>,
}

impl<'a> PodWatch<'a> {
    /// The watch, and the Pods to show first.
    fn start(
        records: PodRecords,
        scope: Scope,
        requested: &'a Requested,
        args: &GetArgs,
    ) -> Result<(Self, Vec<Value>), Failure> {
        let snapshot = Snapshot::read(&records, &scope)?;
        if let Some(name) = snapshot.missing.first()
            && !args.ignore_not_found
        {
            return Err(pods::arguments::not_found(&name.name).into());
        }
        let mut watch = Self {
            records,
            scope,
            requested,
            known: BTreeMap::new(),
        };
        let mut first = Vec::new();
        for pod in &snapshot.pods {
            let (uid, pod) = (pod.metadata.uid.clone(), serde_json::to_value(pod)?);
            if !requested.field_selector.matches(&pod) {
                continue;
            }
            first.push(pod.clone());
            watch.known.extend(uid.map(|uid| (uid, pod)));
        }
        for error in snapshot.damaged {
            complain(&error.into());
        }
        Ok((watch, if args.watch_only { Vec::new() } else { first }))
    }

    /// The Pods to show after a change.
    fn after(&mut self, changed: &Changed) -> anyhow::Result<Vec<Value>> {
        let uids = match changed {
            Changed::Pods(uids) => uids.clone(),
            Changed::Everything => self
                .records
                .uids()?
                .into_iter()
                .chain(self.known.keys().cloned())
                .collect(),
            Changed::Other | Changed::Nothing => return Ok(Vec::new()),
        };
        let mut news = Vec::new();
        for uid in uids {
            let record = self.records.visible(&uid);
            let pod = record.and_then(|record| match record {
                Some(record) if snapshot::is_in_scope(&record, &self.scope) => snapshot::object(&self.records, record),
                _ => Ok(None),
            });
            let pod = match pod {
                Ok(pod) => pod.map(serde_json::to_value).transpose()?,
                Err(error) => {
                    complain(&error.into());
                    continue;
                }
            };
            match pod.filter(|pod| self.requested.field_selector.matches(pod)) {
                Some(pod) => {
                    if self.known.get(&uid) != Some(&pod) {
                        news.push(pod.clone());
                        self.known.insert(uid, pod);
                    }
                }
                // As in kubectl, shows the last known state once more.
                None => news.extend(self.known.remove(&uid)),
            }
        }
        Ok(news)
    }
}

/// Objects of the store.
struct ObjectWatch<'a> {
    watch: Watch,
    group: &'a Group,
    requested: &'a Requested,
    /// The objects that are selected and were shown.
    known: BTreeSet<Key>,
}

impl<'a> ObjectWatch<'a> {
    /// The watch, and the objects to show first.
    fn start(
        reader: &Reader,
        group: &'a Group,
        requested: &'a Requested,
        args: &GetArgs,
    ) -> Result<(Self, Vec<Value>), Failure> {
        let mut list = reader.list(group.kind, requested)?;
        let watch = reader.store()?.watch(&list)?;
        let mut watch = Self {
            watch,
            group,
            requested,
            known: BTreeSet::new(),
        };
        let is_missing = |name: &&ObjectName| !list.items.iter().any(|object| name.is(object));
        if let Some(name) = group.names.iter().find(is_missing)
            && !args.ignore_not_found
        {
            return Err(not_found(group.kind, &name.name).into());
        }
        for error in std::mem::take(&mut list.damaged) {
            complain(&error.into());
        }
        let mut first = Vec::new();
        for object in &list.items {
            if !watch.shows(object) {
                continue;
            }
            watch.known.insert(key(object));
            first.push(object.value().clone());
        }
        Ok((watch, if args.watch_only { Vec::new() } else { first }))
    }

    /// Whether the object is requested.
    fn shows(&self, object: &Arc<Object>) -> bool {
        let names = &self.group.names;
        (names.is_empty() || names.iter().any(|name| name.is(object))) && is_selected(object, self.requested)
    }

    /// The object to show after an event.
    fn after(&mut self, event: Option<&Event>) -> Vec<Value> {
        let Some(event) = event else { return Vec::new() };
        let object = event.object();
        let is_shown = match event {
            Event::Added(_) | Event::Modified(_) if self.shows(object) => {
                self.known.insert(key(object));
                true
            }
            // The object is gone or no longer selected: kubectl shows it once more.
            _ => self.known.remove(&key(object)),
        };
        let shown = is_shown.then(|| object.value().clone());
        shown.into_iter().collect()
    }
}

fn key(object: &Object) -> Key {
    Key {
        namespace: object.namespace().map(str::to_owned),
        name: object.name().to_owned(),
    }
}

#[cfg(test)]
mod tests;
