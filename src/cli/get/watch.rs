//! `get -w`: shows every change of objects, until the output is closed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use microkube_manifest::kinds::Kind;
use microkube_store::{Event, Key, Object, Watch};
use serde_json::{Value, json};

use super::super::failure::{Failure, complain};
use super::super::objects::arguments::{Group, Requested, not_found};
use super::super::objects::listing::{Reader, is_selected, kind_of, report};
use super::super::objects::name::ObjectName;
use super::super::pods::format::{Format, Objects};
use super::super::print::{emit, escaped};
use super::super::table::Columns as Layout;
use super::arguments::{GetArgs, shown};

/// An object to show.
struct Shown {
    kind: &'static Kind,
    object: Value,
    /// `ADDED`, `MODIFIED` or `DELETED`.
    event: &'static str,
}

/// Shows the objects, then every change.
pub(super) fn watch(reader: &Reader, requested: &Requested, args: &GetArgs) -> Result<ExitCode, Failure> {
    let mut output = Output::new(requested, args);
    let (mut objects, shown) = ObjectWatch::start(reader, requested, args)?;
    emit(&output.text(&shown)?)?;
    loop {
        match objects.watch.next_until(None) {
            Ok(event) => {
                let shown = event.and_then(|event| objects.after(&event));
                emit(&output.text(shown.as_slice())?)?;
            }
            // The watch continues.
            Err(error) if error.is_about_one_object() => complain(&report(error)),
            Err(error) => return Err(report(error).into()),
        }
    }
}

/// The state of the output: what later rows depend on.
struct Output<'a> {
    requested: &'a Requested,
    args: &'a GetArgs,
    layout: Layout,
    /// The kind of the last row. Each kind has its own columns.
    kind: Option<&'static Kind>,
    has_header: bool,
}

impl<'a> Output<'a> {
    fn new(requested: &'a Requested, args: &'a GetArgs) -> Self {
        Self {
            requested,
            args,
            layout: Layout::default(),
            kind: None,
            has_header: args.show.no_headers,
        }
    }

    /// The text for the next objects.
    fn text(&mut self, objects: &[Shown]) -> anyhow::Result<String> {
        let show = &self.args.show;
        let mut text = String::new();
        let Some(format) = show.output.as_ref().filter(|_| !show.is_table()) else {
            for objects in objects.chunk_by(|shown, next| shown.kind.kind == next.kind.kind) {
                text += &self.table(objects);
            }
            return Ok(text);
        };
        for Shown { object, event, .. } in objects {
            let object = shown(object.clone(), show);
            let has_event = self.args.output_watch_events;
            match format {
                Format::Json if has_event => text += &event_line(event, &object)?,
                Format::Yaml | Format::Kyaml => {
                    // KYAML has it already.
                    if *format == Format::Yaml {
                        text.push_str("---\n");
                    }
                    let object = match has_event {
                        true => json!({ "object": object, "type": event }),
                        false => object,
                    };
                    text += &format.print(&Objects::One(object), false)?;
                }
                _ => text += &format.print(&Objects::One(object), !self.has_header)?,
            }
            self.has_header = true;
        }
        Ok(text)
    }

    /// The rows for objects of one kind.
    fn table(&mut self, objects: &[Shown]) -> String {
        let Some(Shown { kind, .. }) = objects.first() else {
            return String::new();
        };
        let has_header = !self.args.show.no_headers;
        let is_other = self.kind.is_none_or(|last| last.kind != kind.kind);
        let columns = self.args.show.columns(self.requested);
        let now = Timestamp::now();
        let mut rows: Vec<Vec<String>> = objects
            .iter()
            .map(|shown| self.with_event(shown.event, columns.row(kind, &shown.object, now)))
            .collect();
        let mut text = String::new();
        if is_other {
            self.layout = Layout::default();
            if has_header {
                rows.insert(0, self.with_event("EVENT", columns.header(kind)));
            }
            // As between the tables of `get`.
            if has_header && self.kind.is_some() {
                text.push('\n');
            }
            self.kind = Some(kind);
        }
        text + &self.layout.lines(&rows)
    }

    /// The cells, after the event if it is requested.
    fn with_event(&self, event: &str, mut cells: Vec<String>) -> Vec<String> {
        if self.args.output_watch_events {
            cells.insert(0, event.to_owned());
        }
        cells
    }
}

/// A watch event, in one line as in kubectl.
fn event_line(event: &str, object: &Value) -> anyhow::Result<String> {
    let object = serde_json::to_string(object)?;
    Ok(escaped(&format!("{{\"type\":\"{event}\",\"object\":{object}}}\n")))
}

/// Objects of all kinds.
struct ObjectWatch<'a> {
    watch: Watch,
    groups: Vec<Group>,
    requested: &'a Requested,
    /// The objects that are selected and were shown.
    known: BTreeSet<(&'static str, Key)>,
}

impl<'a> ObjectWatch<'a> {
    /// The watch, and the objects to show first.
    fn start(reader: &Reader, requested: &'a Requested, args: &GetArgs) -> Result<(Self, Vec<Shown>), Failure> {
        let groups = requested.by_kind();
        let (lists, watch) = reader.follow(&groups, requested)?;
        let mut watch = Self {
            watch,
            groups,
            requested,
            known: BTreeSet::new(),
        };
        let mut first = Vec::new();
        for (index, list) in lists.into_iter().enumerate() {
            let Some(group) = watch.groups.get(index) else { continue };
            let kind = group.kind;
            let is_missing = |name: &&ObjectName| !list.items.iter().any(|object| name.is(object));
            if let Some(name) = group.names.iter().find(is_missing)
                && !args.ignore_not_found
            {
                return Err(not_found(kind, &name.name).into());
            }
            for error in list.damaged {
                complain(&report(error));
            }
            for object in list.items.iter().filter(|object| watch.shows(kind, object)) {
                first.push(Shown {
                    kind,
                    object: object.value().clone(),
                    event: "ADDED",
                });
            }
            let shown = list.items.iter().filter(|object| watch.shows(kind, object));
            let shown: Vec<_> = shown.map(|object| (kind.kind, key(object))).collect();
            watch.known.extend(shown);
        }
        Ok((watch, if args.watch_only { Vec::new() } else { first }))
    }

    /// Whether the object is requested.
    fn shows(&self, kind: &Kind, object: &Arc<Object>) -> bool {
        let group = self.groups.iter().find(|group| group.kind.kind == kind.kind);
        group.is_some_and(|group| group.names(object)) && is_selected(object, self.requested)
    }

    /// The object to show after an event.
    fn after(&mut self, event: &Event) -> Option<Shown> {
        let object = event.object();
        let kind = kind_of(object)?;
        let event = match event {
            Event::Added(_) | Event::Modified(_) if self.shows(kind, object) => {
                match self.known.insert((kind.kind, key(object))) {
                    true => "ADDED",
                    false => "MODIFIED",
                }
            }
            // It is gone, or has left the selection: kubectl shows it once more.
            _ if self.known.remove(&(kind.kind, key(object))) => "DELETED",
            _ => return None,
        };
        Some(Shown {
            kind,
            object: object.value().clone(),
            event,
        })
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
