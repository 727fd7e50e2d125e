//! `microkube events`.

mod seen;

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use microkube_manifest::kinds::Kind;
use serde_json::{Value, json};

use super::failure::{Failure, complain};
use super::objects::arguments::kind_and_name;
use super::pods::arguments::ScopeArgs;
use super::pods::format::{Format, Objects};
use super::pods::output::FormatArgs;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::table::{Columns, since};
use crate::pod::changes::{Changed, Changes};
use crate::pod::object_event_changes::ObjectEventChanges;
use crate::state::{EventRecord, InvolvedObject, Paths, PodRecords};
use crate::stderr::say;
use seen::Shown;
pub(super) use seen::{COMPONENT, Seen, Selection};

/// List events of Pods, volume claims and volumes
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube events\n  microkube events --for pod/web --watch\n  microkube events --for pvc/data\n  microkube events --types=Warning -A"
)]
pub struct EventsArgs {
    #[command(flatten)]
    scope: ScopeArgs,
    /// Show only events of this object
    #[arg(long = "for", value_name = "TYPE/NAME", value_parser = str::parse::<Regarding>, add = super::completion::objects())]
    of: Option<Regarding>,
    /// Show only events of these types: Normal, Warning
    #[arg(long, value_delimiter = ',', value_parser = is_warning, value_name = "TYPE,…")]
    types: Vec<bool>,
    /// After listing the events, watch for more
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    format: FormatArgs,
    /// Don't print column headers
    #[arg(long)]
    no_headers: bool,
}

/// The object whose events are shown.
#[derive(Debug, Clone)]
struct Regarding {
    kind: &'static Kind,
    name: String,
}

impl FromStr for Regarding {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (kind, name) = kind_and_name(text)?;
        let name = name.to_owned();
        Ok(Self { kind, name })
    }
}

impl EventsArgs {
    /// The output format. Without -o, kubectl ignores --template here.
    fn format(&self) -> anyhow::Result<Option<Format>> {
        match self.format.is_named() {
            true => self.format.format(),
            false => Ok(None),
        }
    }

    fn selection(&self) -> Selection {
        Selection {
            namespace: self.scope.namespace(),
            object: self.of.as_ref().map(|of| (of.kind.kind, of.name.clone())),
            types: self.types.clone(),
        }
    }
}

fn is_warning(kind: &str) -> anyhow::Result<bool> {
    match kind.to_ascii_lowercase().as_str() {
        "warning" => Ok(true),
        "normal" => Ok(false),
        _ => bail!("valid --types are Normal or Warning"),
    }
}

pub(super) fn run(args: EventsArgs) -> Result<ExitCode, Failure> {
    let format = args.format()?;
    let format = format.as_ref();
    let selection = args.selection();
    let purpose = if args.watch { Purpose::Follow } else { Purpose::Look };
    match pods_host::go_to_pods(purpose, None)? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) if args.watch => watch(&paths, &selection, &args, format),
        Place::Here(paths) => show(&paths, &selection, &args, format),
    }
}

/// `Normal` or `Warning`.
pub(super) fn kind(event: &EventRecord) -> &'static str {
    if event.warning { "Warning" } else { "Normal" }
}

/// `30s`, or `30s (x3 over 4m)` for a repeated event.
pub(super) fn age(event: &EventRecord, now: Timestamp) -> String {
    let first = since(Some(event.first_seen), now);
    match event.count {
        0 | 1 => first,
        count => format!("{} (x{count} over {first})", since(Some(event.last_seen), now)),
    }
}

fn show(paths: &Paths, selection: &Selection, args: &EventsArgs, format: Option<&Format>) -> Result<ExitCode, Failure> {
    let mut failed = false;
    let events = selection.read(paths, &mut |error| {
        complain(&error);
        failed = true;
    })?;
    match format {
        Some(format) => emit(&format.print(&listed(&events, args, format)?, !args.no_headers)?)?,
        None if events.is_empty() => match &selection.namespace {
            Some(namespace) => say!("No events found in {namespace} namespace."),
            None => say!("No events found."),
        },
        None => {
            let text = text(
                &events,
                args,
                &mut Columns::default(),
                !args.no_headers,
                Timestamp::now(),
            );
            emit(&text)?;
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The events as objects, as they are printed in this format.
fn objects(events: &[Seen], args: &EventsArgs, format: &Format) -> anyhow::Result<Vec<Value>> {
    let objects = events.iter().map(|seen| serde_json::to_value(object(seen)));
    let objects = objects.map(|object| Ok(args.format.shown(object?, format)));
    objects.collect()
}

/// All events together.
fn listed(events: &[Seen], args: &EventsArgs, format: &Format) -> anyhow::Result<Objects> {
    let objects = objects(events, args, format)?;
    Ok(match format {
        Format::Name | Format::CustomColumns(_) => Objects::List(objects),
        _ => Objects::One(json!({ "apiVersion": "v1", "items": objects, "kind": "EventList", "metadata": {} })),
    })
}

/// The table.
fn text(events: &[Seen], args: &EventsArgs, columns: &mut Columns, header: bool, now: Timestamp) -> String {
    let mut rows = Vec::new();
    if header {
        let mut titles = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"];
        if args.scope.all_namespaces {
            titles.insert(0, "NAMESPACE");
        }
        rows.push(titles.into_iter().map(str::to_owned).collect());
    }
    for seen in events {
        let mut row = vec![
            age(&seen.event, now),
            kind(&seen.event).to_owned(),
            seen.event.reason.clone(),
            format!("{}/{}", seen.object.kind, seen.object.name),
            seen.event.message.trim().to_owned(),
        ];
        if args.scope.all_namespaces {
            row.insert(0, seen.namespace().to_owned());
        }
        rows.push(row);
    }
    columns.lines(&rows)
}

/// The event as a Kubernetes API object.
pub(super) fn object(seen: &Seen) -> Event {
    let event = &seen.event;
    let InvolvedObject {
        kind: of_kind,
        namespace,
        name,
        uid,
    } = seen.object.clone();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", event.first_seen.as_nanosecond())),
            namespace: Some(seen.namespace().to_owned()),
            creation_timestamp: Some(Time(event.first_seen)),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(of_kind),
            namespace,
            name: Some(name),
            uid: Some(uid),
            field_path: event.field_path.clone(),
            resource_version: None,
        },
        reason: Some(event.reason.clone()),
        message: Some(event.message.clone()),
        source: Some(EventSource {
            component: Some(seen.component.clone()),
            host: None,
        }),
        first_timestamp: Some(Time(event.first_seen)),
        last_timestamp: Some(Time(event.last_seen)),
        count: Some(i32::try_from(event.count).unwrap_or(i32::MAX)),
        type_: Some(kind(event).to_owned()),
        reporting_component: Some(seen.component.clone()),
        ..Event::default()
    }
}

/// Shows the events so far, then new and repeated ones until the output is closed.
fn watch(
    paths: &Paths,
    selection: &Selection,
    args: &EventsArgs,
    format: Option<&Format>,
) -> Result<ExitCode, Failure> {
    let mut columns = Columns::default();
    let mut is_first = true;
    let show = |new: &[Seen]| -> anyhow::Result<()> {
        let Some(format) = format else {
            let header = is_first && !args.no_headers;
            is_first = false;
            return emit(&text(new, args, &mut columns, header, Timestamp::now()));
        };
        for object in objects(new, args, format)? {
            let separator = if !is_first && *format == Format::Yaml {
                "---\n"
            } else {
                ""
            };
            let text = format.print(&Objects::One(object), is_first && !args.no_headers)?;
            is_first = false;
            emit(&format!("{separator}{text}"))?;
        }
        Ok(())
    };
    Ok(follow(paths, selection, true, show)?)
}

/// Passes the events so far on if `lists_first`, then new and repeated ones, until `show` fails.
///
/// # Errors
/// If `show` fails, or the events cannot be followed.
pub(super) fn follow(
    paths: &Paths,
    selection: &Selection,
    lists_first: bool,
    mut show: impl FnMut(&[Seen]) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    let mut changes = Changes::of(paths)?;
    let of_objects = ObjectEventChanges::of(paths)?;
    let records = PodRecords::new(paths.clone());
    let mut shown = Shown::default();
    let mut new = shown.new_among(selection.read(paths, &mut |error| complain(&error))?);
    if !lists_first {
        new.clear();
    }
    loop {
        if !new.is_empty() {
            show(&new)?;
        }
        let events = match changes.wait(None, &[of_objects.descriptor()])? {
            Changed::Pods(uids) => {
                let mut changed = Vec::new();
                for uid in uids {
                    match records.visible(&uid) {
                        Ok(Some(record)) => match selection.of_pod(&records, &record) {
                            Ok(events) => changed.extend(events),
                            Err(error) => complain(&error),
                        },
                        Ok(None) => shown.forget_pod(&uid),
                        Err(error) => complain(&error.into()),
                    }
                }
                changed.sort_by_key(|seen| seen.event.last_seen);
                changed
            }
            Changed::Other => {
                of_objects.take()?;
                match selection.of_objects(paths) {
                    Ok(mut changed) => {
                        shown.keep_of_objects(&changed);
                        changed.sort_by_key(|seen| seen.event.last_seen);
                        changed
                    }
                    Err(error) => {
                        complain(&error);
                        Vec::new()
                    }
                }
            }
            Changed::Everything | Changed::Nothing => selection.read(paths, &mut |error| complain(&error))?,
        };
        new = shown.new_among(events);
    }
}

#[cfg(test)]
mod tests {
    use super::super::pods::test_pods::{CREATED, TestPods};
    use super::*;
    use crate::state::{EventLog, ObjectEventLog, Occurrence};

    fn args(words: &[&str]) -> EventsArgs {
        #[derive(Debug, clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: EventsArgs,
        }
        let words = ["events"].iter().chain(words);
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    fn at(second: i64) -> Timestamp {
        CREATED.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(second)
    }

    fn logged() -> (TestPods, EventLog) {
        let pods = TestPods::new();
        let web = pods.add("web", &[]);
        let db = pods.add_to("data", "db", &[]);
        let mut log = EventLog::open(&pods.records.events_path(&web)).unwrap();
        let main = Some("spec.containers{main}".to_owned());
        log.add(false, "Pulled", "Image is there ", main, at(0).into()).unwrap();
        log.add(true, "BackOff", "Back-off", None, at(10).into()).unwrap();
        log.add(true, "BackOff", "Back-off", None, at(50).into()).unwrap();
        let mut other = EventLog::open(&pods.records.events_path(&db)).unwrap();
        other
            .add(false, "Started", "Container started", None, at(5).into())
            .unwrap();
        (pods, log)
    }

    fn table(pods: &TestPods, words: &[&str]) -> String {
        let args = args(words);
        let events = args
            .selection()
            .read(&pods.paths, &mut |error| panic!("{error}"))
            .unwrap();
        match args.format().unwrap() {
            Some(format) => format
                .print(&listed(&events, &args, &format).unwrap(), !args.no_headers)
                .unwrap(),
            None => text(&events, &args, &mut Columns::default(), !args.no_headers, at(60)),
        }
    }

    #[test]
    fn events_are_listed_as_by_kubectl_in_order_of_time() {
        let (pods, _) = logged();
        assert_eq!(
            table(&pods, &[]),
            "\
LAST SEEN           TYPE      REASON    OBJECT    MESSAGE
60s                 Normal    Pulled    Pod/web   Image is there
10s (x2 over 50s)   Warning   BackOff   Pod/web   Back-off
"
        );
        assert_eq!(
            table(&pods, &["-A", "--types", "normal", "--no-headers"]),
            "\
default   60s   Normal   Pulled    Pod/web   Image is there
data      55s   Normal   Started   Pod/db    Container started
"
        );
        assert_eq!(table(&pods, &["--for", "pod/other", "--no-headers"]), "");
        assert_eq!(table(&pods, &["--for", "cm/web", "--no-headers"]), "");
        assert_eq!(
            table(
                &pods,
                &["-o", "jsonpath={.items[0].involvedObject.fieldPath} {.items[1].count}"]
            ),
            "spec.containers{main} 2"
        );
        assert!(table(&pods, &["-o", "name"]).starts_with("event/web."));
        let template = "--template={{.kind}} {{len .items}}";
        assert_eq!(table(&pods, &["-o", "go-template", template]), "EventList 2");
        assert!(table(&pods, &[template]).starts_with("LAST SEEN"));
    }

    #[test]
    fn events_of_claims_and_volumes_are_listed_as_those_of_pods() {
        let (pods, _) = logged();
        let mut log = ObjectEventLog::open(&pods.paths).unwrap();
        for (kind, namespace, reason) in [
            ("PersistentVolumeClaim", Some("default"), "WaitForFirstConsumer"),
            ("PersistentVolumeClaim", Some("data"), "ProvisioningSucceeded"),
            ("PersistentVolume", None, "VolumeFailedDelete"),
        ] {
            let object = InvolvedObject {
                kind: kind.to_owned(),
                namespace: namespace.map(str::to_owned),
                name: "disk".to_owned(),
                uid: format!("{kind}-{namespace:?}"),
            };
            let occurrence = Occurrence {
                warning: namespace.is_none(),
                reason,
                message: "why",
                component: "persistentvolume-controller",
                lasts: false,
            };
            log.add(&object, occurrence, std::time::SystemTime::now());
        }
        log.save().unwrap();
        let reasons = |words: &[&str]| {
            let format = ["-o", "jsonpath={.items[*].reason}"];
            table(&pods, &[words, &format].concat())
        };
        assert_eq!(reasons(&["--for", "pvc/disk"]), "WaitForFirstConsumer");
        assert_eq!(reasons(&["--for", "pvc/disk", "-n", "data"]), "ProvisioningSucceeded");
        // Events about objects without a namespace are in this one.
        assert_eq!(reasons(&["--for", "pv/disk"]), "VolumeFailedDelete");
        assert_eq!(reasons(&["--for", "pv/disk", "-n", "data"]), "");
        assert_eq!(reasons(&["--for", "pv/other"]), "");
        let warnings = reasons(&["--types", "warning"]);
        let mut warnings: Vec<&str> = warnings.split(' ').collect();
        warnings.sort_unstable();
        assert_eq!(warnings, ["BackOff", "VolumeFailedDelete"], "with those of Pods");
        assert_eq!(
            table(
                &pods,
                &["--for", "pv/disk", "-o", "jsonpath={.items[0].source.component}"]
            ),
            "persistentvolume-controller"
        );
        let rows = table(&pods, &["--for", "pvc/disk", "--no-headers"]);
        assert!(rows.contains("PersistentVolumeClaim/disk   why"), "{rows}");
    }

    #[test]
    fn a_watch_shows_only_new_events_and_new_counts() {
        let (pods, mut log) = logged();
        let selection = args(&["-A"]).selection();
        let mut shown = Shown::default();
        let mut next = || {
            let events = selection.read(&pods.paths, &mut |error| panic!("{error}")).unwrap();
            let new = shown.new_among(events);
            new.into_iter().map(|seen| seen.event.reason).collect::<Vec<_>>()
        };
        assert_eq!(next(), ["Pulled", "Started", "BackOff"]);
        assert_eq!(next(), Vec::<String>::new());
        log.add(true, "BackOff", "Back-off", None, at(55).into()).unwrap();
        log.add(false, "Started", "Container started", None, at(56).into())
            .unwrap();
        assert_eq!(next(), ["BackOff", "Started"]);
    }

    #[test]
    fn unknown_types_and_other_objects_are_refused() {
        assert_eq!(
            is_warning("x").unwrap_err().to_string(),
            "valid --types are Normal or Warning"
        );
        assert!("node/a".parse::<Regarding>().is_err());
        assert!("pod".parse::<Regarding>().is_err());
    }
}
