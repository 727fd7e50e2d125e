//! `get -w`: shows every change of objects, until the output is closed.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;

use jiff::Timestamp;
use microkube_manifest::kinds::Kind;
use microkube_store::{Event, Key, Object, Watch};
use serde_json::Value;

use super::super::failure::{Failure, complain};
use super::super::objects::arguments::{Group, Requested, not_found};
use super::super::objects::listing::{Reader, is_selected, kind_of, report};
use super::super::objects::name::ObjectName;
use super::super::pods::format::{Format, Objects};
use super::super::print::emit;
use super::super::table::Columns as Layout;
use super::arguments::{GetArgs, shown};

/// An object to show.
type Shown = (&'static Kind, Value);

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
            for objects in objects.chunk_by(|(kind, _), (next, _)| kind.kind == next.kind) {
                text += &self.table(objects);
            }
            return Ok(text);
        };
        for (_, object) in objects {
            if matches!(format, Format::Yaml) {
                text.push_str("---\n");
            }
            text += &format.print(&Objects::One(shown(object.clone(), show)), !self.has_header)?;
            self.has_header = true;
        }
        Ok(text)
    }

    /// The rows for objects of one kind.
    fn table(&mut self, objects: &[Shown]) -> String {
        let Some((kind, _)) = objects.first() else {
            return String::new();
        };
        let has_header = !self.args.show.no_headers;
        let is_other = self.kind.is_none_or(|last| last.kind != kind.kind);
        let columns = self.args.show.columns(self.requested);
        let now = Timestamp::now();
        let mut rows: Vec<Vec<String>> = objects
            .iter()
            .map(|(_, object)| columns.row(kind, object, now))
            .collect();
        let mut text = String::new();
        if is_other {
            self.layout = Layout::default();
            if has_header {
                rows.insert(0, columns.header(kind));
            }
            // As between the tables of `get`.
            if has_header && self.kind.is_some() {
                text.push('\n');
            }
            self.kind = Some(kind);
        }
        text + &self.layout.lines(&rows)
    }
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
                first.push((kind, object.value().clone()));
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
        let is_shown = match event {
            Event::Added(_) | Event::Modified(_) if self.shows(kind, object) => {
                self.known.insert((kind.kind, key(object)));
                true
            }
            // It is gone, or has left the selection: kubectl shows it once more.
            _ => self.known.remove(&(kind.kind, key(object))),
        };
        is_shown.then(|| (kind, object.value().clone()))
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
