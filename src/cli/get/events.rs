//! `get events`: events are no objects of the store, but kubectl reads them as if they were.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use jiff::Timestamp;
use serde_json::Value;

use super::super::events::{Seen, Selection, follow, object};
use super::super::failure::{Failure, complain};
use super::super::objects::field_selector::FieldSelector;
use super::super::pods::format::{Format, Objects};
use super::super::pods_host::{self, Place, Purpose};
use super::super::print::emit;
use super::super::table::{Columns, since};
use super::arguments::{GetArgs, Show};
use super::order::sort;
use crate::state::Paths;
use crate::stderr::say;

/// The names of the type.
const NAMES: [&str; 4] = ["events", "event", "ev", "events.v1"];

/// Whether the command line asks for events.
pub(super) fn are_requested(args: &GetArgs) -> bool {
    let first = args.objects.resources.first();
    let kind = first.and_then(|word| word.split('/').next());
    args.objects.files.filename.is_empty() && kind.is_some_and(|kind| NAMES.contains(&kind))
}

pub(super) fn run(args: &GetArgs) -> Result<ExitCode, Failure> {
    let request = Request::new(args)?;
    let purpose = match args.follows() {
        true => Purpose::Follow,
        false => Purpose::Look,
    };
    match pods_host::go_to_pods(purpose, None)? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) if args.follows() => request.watch(&paths),
        Place::Here(paths) => request.show(&paths),
    }
}

/// The requested events.
#[derive(Debug)]
struct Request<'a> {
    args: &'a GetArgs,
    /// If this is empty, all selected events.
    names: Vec<String>,
    selection: Selection,
    fields: FieldSelector,
}

impl<'a> Request<'a> {
    fn new(args: &'a GetArgs) -> anyhow::Result<Self> {
        let fields = args.field_selector.field_selector.clone().unwrap_or_default();
        fields.check_events()?;
        let names = names(&args.objects.resources)?;
        if !names.is_empty() && args.scope.all_namespaces {
            bail!("a resource cannot be retrieved by name across all namespaces");
        }
        if !names.is_empty() && (args.selector.selector.is_some() || !fields.is_empty()) {
            bail!("name cannot be provided when a selector is specified");
        }
        if args.show.show_labels || !args.show.label_columns.is_empty() {
            bail!("events have no labels: --show-labels and -L show nothing");
        }
        if args.output_watch_events {
            bail!("--output-watch-events does not work for events, which are only added and counted");
        }
        if args.subresource.is_some() {
            bail!("events have no subresources");
        }
        let selection = Selection {
            namespace: args.scope.namespace(),
            ..Selection::default()
        };
        Ok(Self {
            args,
            names,
            selection,
            fields,
        })
    }

    fn show(&self, paths: &Paths) -> Result<ExitCode, Failure> {
        let mut failed = false;
        let seen = self.selection.read(paths, &mut |error| {
            complain(&error);
            failed = true;
        })?;
        let mut objects = self.objects(&seen)?;
        match &self.args.show.sort_by {
            Some(path) => {
                if !sort(&mut objects, path)? && !objects.is_empty() {
                    let problem = "couldn't find any field with path";
                    return Err(anyhow!("{problem} {:?} in the list of objects", path.text()).into());
                }
            }
            None => {
                objects.sort_by_cached_key(|object| (text(object, NAMESPACE).to_owned(), text(object, NAME).to_owned()))
            }
        }
        emit(&self.text(&objects, &mut Columns::default(), !self.args.show.no_headers)?)?;
        let is_found = |name: &&String| objects.iter().any(|object| text(object, NAME) == name.as_str());
        for name in self
            .names
            .iter()
            .filter(|name| !self.args.ignore_not_found && !is_found(name))
        {
            complain(&anyhow!("Error (NotFound): events {name:?} not found"));
            failed = true;
        }
        if self.args.show.is_table() && objects.is_empty() && self.names.is_empty() && !self.args.ignore_not_found {
            match &self.selection.namespace {
                Some(namespace) => say!("No resources found in {namespace} namespace."),
                None => say!("No resources found"),
            }
        }
        Ok(ExitCode::from(u8::from(failed)))
    }

    /// Shows the events so far, unless only changes are requested, then new and repeated ones.
    fn watch(&self, paths: &Paths) -> Result<ExitCode, Failure> {
        let mut columns = Columns::default();
        let mut header = !self.args.show.no_headers;
        let show = |new: &[Seen]| -> anyhow::Result<()> {
            let objects = self.objects(new)?;
            if self.args.show.is_table() {
                if !objects.is_empty() {
                    emit(&self.text(&objects, &mut columns, header)?)?;
                    header = false;
                }
                return Ok(());
            }
            for object in objects {
                let format = self.args.show.output.as_ref();
                let separator = if format == Some(&Format::Yaml) { "---\n" } else { "" };
                let text = match format {
                    Some(format) => format.print(&Objects::One(object), header)?,
                    None => String::new(),
                };
                emit(&format!("{separator}{text}"))?;
                header = false;
            }
            Ok(())
        };
        Ok(follow(paths, &self.selection, !self.args.watch_only, show)?)
    }

    /// The events that are requested, as objects.
    fn objects(&self, seen: &[Seen]) -> anyhow::Result<Vec<Value>> {
        let labels = self.args.selector.selector.as_ref();
        if labels.is_some_and(|selector| !selector.matches(None)) {
            return Ok(Vec::new());
        }
        let mut objects = Vec::new();
        for seen in seen {
            let object = serde_json::to_value(object(seen))?;
            let is_named = self.names.is_empty() || self.names.iter().any(|name| text(&object, NAME) == name.as_str());
            if is_named && self.fields.matches(&object) {
                objects.push(object);
            }
        }
        Ok(objects)
    }

    fn text(&self, objects: &[Value], columns: &mut Columns, header: bool) -> anyhow::Result<String> {
        let Show { output, .. } = &self.args.show;
        if let Some(format) = output.as_ref().filter(|_| !self.args.show.is_table()) {
            if objects.is_empty() && !self.names.is_empty() {
                return Ok(String::new());
            }
            return format.print(&Objects::of(objects, self.names.len() == 1)?, header);
        }
        if objects.is_empty() {
            return Ok(String::new());
        }
        let is_wide = output.is_some();
        let with_namespace = self.args.scope.all_namespaces;
        let now = Timestamp::now();
        let mut rows: Vec<Vec<String>> = objects
            .iter()
            .map(|object| row(object, is_wide, with_namespace, now))
            .collect();
        if header {
            rows.insert(0, titles(is_wide, with_namespace));
        }
        Ok(columns.lines(&rows))
    }
}

/// The names in `events a b` or `event/a event/b`.
fn names(words: &[String]) -> anyhow::Result<Vec<String>> {
    if !words.iter().any(|word| word.contains('/')) {
        return Ok(words.iter().skip(1).cloned().collect());
    }
    let mut names = Vec::new();
    for word in words {
        match word.split_once('/') {
            Some((kind, name)) if NAMES.contains(&kind) && !name.is_empty() => names.push(name.to_owned()),
            _ => bail!("events are shown alone, not together with {word:?}"),
        }
    }
    Ok(names)
}

const NAME: &str = "/metadata/name";
const NAMESPACE: &str = "/metadata/namespace";

fn text<'o>(object: &'o Value, pointer: &str) -> &'o str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The columns of `printEvent` (`pkg/printers/internalversion/printers.go`).
fn titles(is_wide: bool, with_namespace: bool) -> Vec<String> {
    let mut titles = match is_wide {
        false => vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"],
        true => vec![
            "LAST SEEN",
            "TYPE",
            "REASON",
            "OBJECT",
            "SUBOBJECT",
            "SOURCE",
            "MESSAGE",
            "FIRST SEEN",
            "COUNT",
            "NAME",
        ],
    };
    if with_namespace {
        titles.insert(0, "NAMESPACE");
    }
    titles.into_iter().map(str::to_owned).collect()
}

fn row(event: &Value, is_wide: bool, with_namespace: bool, now: Timestamp) -> Vec<String> {
    let age = |pointer: &str| since(text(event, pointer).parse().ok(), now);
    let kind = text(event, "/involvedObject/kind").to_lowercase();
    let mut row = vec![
        age("/lastTimestamp"),
        text(event, "/type").to_owned(),
        text(event, "/reason").to_owned(),
        format!("{kind}/{}", text(event, "/involvedObject/name")),
    ];
    let message = text(event, "/message").trim().to_owned();
    match is_wide {
        false => row.push(message),
        true => row.extend([
            text(event, "/involvedObject/fieldPath").to_owned(),
            text(event, "/source/component").to_owned(),
            message,
            age("/firstTimestamp"),
            event.get("count").and_then(Value::as_u64).unwrap_or(1).to_string(),
            text(event, NAME).to_owned(),
        ]),
    }
    if with_namespace {
        row.insert(0, text(event, NAMESPACE).to_owned());
    }
    row
}

#[cfg(test)]
mod tests {
    use super::super::super::pods::test_pods::{CREATED, TestPods};
    use super::super::tests::args;
    use super::*;
    use crate::state::EventLog;

    fn pods() -> TestPods {
        let pods = TestPods::new();
        let at = |second: i64| {
            let created: Timestamp = CREATED.parse().unwrap();
            (created + jiff::SignedDuration::from_secs(second)).into()
        };
        for (name, second) in [("web", 5), ("db", 9)] {
            let uid = pods.add(name, &[]);
            let mut log = EventLog::open(&pods.records.events_path(&uid)).unwrap();
            let main = Some("spec.containers{main}".to_owned());
            log.add(true, "BackOff", "Back-off ", main, at(second)).unwrap();
        }
        pods
    }

    fn shown(pods: &TestPods, words: &str) -> anyhow::Result<String> {
        let args = args(words);
        assert!(are_requested(&args));
        let request = Request::new(&args)?;
        let seen = request.selection.read(&pods.paths, &mut |error| panic!("{error}"))?;
        let objects = request.objects(&seen)?;
        request.text(&objects, &mut Columns::default(), !args.show.no_headers)
    }

    #[test]
    fn events_are_selected_by_fields_and_names() {
        let pods = pods();
        let objects = |words: &str| {
            let words = format!("{words} -o jsonpath={{.items[*].involvedObject.name}}");
            shown(&pods, &words).unwrap()
        };
        assert_eq!(objects("events"), "web db");
        assert_eq!(objects("ev --field-selector=involvedObject.name=db"), "db");
        assert_eq!(objects("events --field-selector=type=Normal"), "");
        assert_eq!(objects("events -n other"), "");
        assert_eq!(objects("events -l app=shop"), "");
        let name = shown(&pods, "events -o jsonpath={.items[0].metadata.name}").unwrap();
        assert!(name.starts_with("web."), "{name}");
        let one = shown(&pods, &format!("event/{name} -o jsonpath={{.reason}}")).unwrap();
        assert_eq!(one, "BackOff");
    }

    #[test]
    fn the_table_has_kubectls_columns() {
        let pods = pods();
        let first = |words: &str| {
            shown(&pods, words)
                .unwrap()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        let words = |line: &str| line.split("  ").map(str::trim).filter(|word| !word.is_empty()).count();
        assert_eq!(words(&first("events")), 5);
        assert_eq!(words(&first("events -A")), 6);
        assert_eq!(words(&first("events -o wide")), 10);
        let rows = shown(&pods, "events -o wide --no-headers").unwrap();
        let part = "Warning   BackOff   pod/web   spec.containers{main}   microkube   Back-off";
        assert!(rows.contains(part), "{rows}");
    }

    #[test]
    fn contradictions_are_refused() {
        let pods = pods();
        for (words, problem) in [
            (
                "events --field-selector=message=a",
                "field label not supported: message",
            ),
            ("events a -A", "across all namespaces"),
            (
                "events a -l b=c",
                "name cannot be provided when a selector is specified",
            ),
            ("events -L app", "events have no labels"),
            ("event/a pod/b", "events are shown alone"),
            ("events --subresource=status", "events have no subresources"),
        ] {
            let error = shown(&pods, words).unwrap_err().to_string();
            assert!(error.contains(problem), "{words}: {error}");
        }
    }
}
