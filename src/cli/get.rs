//! `microkube get`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::failure::{Failure, complain};
use super::jsonpath::{self, Template};
use super::pods::arguments::{ResourceArgs, Scope, ScopeArgs, SelectorArg, not_found};
use super::pods::format::{Format, Objects};
use super::pods::snapshot::{self, Snapshot};
use super::pods::status_column;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::table::{Columns, since};
use crate::pod::changes::{Changed, Changes};
use crate::state::{Paths, PodRecords};
use crate::stderr::say;

/// Show Pods
///
/// As `kubectl get pods`: a line for each Pod with its status, or the whole Pod in another format. With -w, every change after that.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube get pods\n  microkube get pod web -o yaml\n  microkube get pods -l app=shop -w\n  microkube get pod \
                  web -o jsonpath='{.status.podIP}'\n  microkube get -f shop/"
)]
pub struct GetArgs {
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    #[command(flatten)]
    show: Show,
    /// After that, show every change
    #[arg(short, long)]
    watch: bool,
    /// Show changes only
    #[arg(long)]
    watch_only: bool,
    /// No error if a named Pod does not exist
    #[arg(long)]
    ignore_not_found: bool,
}

/// How Pods are shown.
#[derive(Debug, Default, clap::Args)]
struct Show {
    /// json, yaml, name, wide, jsonpath=TEMPLATE or custom-columns=NAME:PATH,…
    #[arg(short, long, value_name = "FORMAT", value_parser = str::parse::<Format>)]
    output: Option<Format>,
    /// Without the line of titles
    #[arg(long)]
    no_headers: bool,
    /// The Pods' labels as a last column
    #[arg(long)]
    show_labels: bool,
    /// Sort by this field: .metadata.creationTimestamp
    #[arg(long, value_name = "JSONPATH", value_parser = Template::parse_relaxed)]
    sort_by: Option<Template>,
}

/// Runs the verb.
pub(super) fn run(args: GetArgs) -> Result<ExitCode, Failure> {
    let (scope, consumed_stdin) = Scope::new(&args.resources, &args.scope, &args.selector)?;
    let follows = args.watch || args.watch_only;
    let purpose = if follows { Purpose::Follow } else { Purpose::Look };
    match pods_host::go_to_pods(purpose, consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => Ok(exit_code),
        Place::Here(paths) if follows => watch(&paths, &scope, &args),
        Place::Here(paths) => {
            let snapshot = Snapshot::read(&PodRecords::new(paths), &scope)?;
            show(snapshot, &scope, &args)
        }
    }
}

/// Shows the Pods once.
fn show(mut snapshot: Snapshot, scope: &Scope, args: &GetArgs) -> Result<ExitCode, Failure> {
    if let Some(path) = &args.show.sort_by {
        sort(&mut snapshot.pods, path)?;
    }
    emit(&text(&snapshot.pods, scope, &args.show, Timestamp::now())?)?;
    let mut failed = false;
    for name in snapshot.missing.iter().filter(|_| !args.ignore_not_found) {
        complain(&not_found(&name.name));
        failed = true;
    }
    for error in snapshot.damaged {
        complain(&error.into());
        failed = true;
    }
    let is_table = matches!(args.show.output, None | Some(Format::Wide));
    if is_table && snapshot.pods.is_empty() && scope.names.is_empty() && !args.ignore_not_found {
        say!("{}", scope.nothing_found());
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The Pods in the format that was asked for.
fn text(pods: &[Pod], scope: &Scope, show: &Show, now: Timestamp) -> anyhow::Result<String> {
    match &show.output {
        None | Some(Format::Wide) => {
            let mut rows: Vec<Vec<String>> = pods.iter().map(|pod| row(pod, scope, show, now)).collect();
            if !show.no_headers && !rows.is_empty() {
                rows.insert(0, header(scope, show));
            }
            Ok(Columns::default().lines(&rows))
        }
        // Of a named Pod that does not exist there is nothing to print.
        Some(_) if pods.is_empty() && !scope.names.is_empty() => Ok(String::new()),
        Some(format) => format.print(&Objects::of(pods, scope.names.len() == 1)?, !show.no_headers),
    }
}

fn header(scope: &Scope, show: &Show) -> Vec<String> {
    let mut titles = vec!["NAME", "READY", "STATUS", "RESTARTS", "AGE"];
    if scope.namespace.is_none() {
        titles.insert(0, "NAMESPACE");
    }
    if show.output.is_some() {
        titles.extend(["IP", "NODE", "NOMINATED NODE", "READINESS GATES"]);
    }
    if show.show_labels {
        titles.push("LABELS");
    }
    titles.into_iter().map(str::to_owned).collect()
}

fn row(pod: &Pod, scope: &Scope, show: &Show, now: Timestamp) -> Vec<String> {
    let none = || "<none>".to_owned();
    let cells = status_column::cells(pod, now);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let mut row = vec![
        pod.metadata.name.clone().unwrap_or_default(),
        cells.ready,
        cells.status,
        cells.restarts,
        since(created, now),
    ];
    if scope.namespace.is_none() {
        row.insert(0, pod.metadata.namespace.clone().unwrap_or_default());
    }
    if show.output.is_some() {
        let status = pod.status.as_ref();
        let first_ip = status.and_then(|status| {
            let ips = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
            ips.chain(status.pod_ip.clone()).find(|ip| !ip.is_empty())
        });
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        row.extend([
            first_ip.unwrap_or_else(none),
            node.unwrap_or_else(none),
            none(),
            readiness_gates(pod),
        ]);
    }
    if show.show_labels {
        let labels = pod.metadata.labels.iter().flatten();
        let labels: Vec<String> = labels.map(|(key, value)| format!("{key}={value}")).collect();
        row.push(if labels.is_empty() { none() } else { labels.join(",") });
    }
    row
}

fn readiness_gates(pod: &Pod) -> String {
    let gates = pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let conditions: Vec<_> = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .collect();
    let (mut all, mut met) = (0, 0);
    for gate in gates {
        all += 1;
        let is_met = |condition: &&&k8s_openapi::api::core::v1::PodCondition| {
            condition.type_ == gate.condition_type && condition.status == "True"
        };
        met += usize::from(conditions.iter().any(|condition| is_met(&condition)));
    }
    match all {
        0 => "<none>".to_owned(),
        _ => format!("{met}/{all}"),
    }
}

/// Sorts by what a path finds first; Pods of which it finds nothing come first.
fn sort(pods: &mut Vec<Pod>, path: &Template) -> anyhow::Result<()> {
    let mut keyed = Vec::with_capacity(pods.len());
    for pod in pods.drain(..) {
        let object = serde_json::to_value(&pod)?;
        let key: Option<Value> = path.find(&object)?.into_iter().next().cloned();
        keyed.push((key, pod));
    }
    keyed.sort_by(|(left, _), (right, _)| match (left, right) {
        (Some(left), Some(right)) => jsonpath::order(left, right).unwrap_or(std::cmp::Ordering::Equal),
        (left, right) => left.is_some().cmp(&right.is_some()),
    });
    pods.extend(keyed.into_iter().map(|(_, pod)| pod));
    Ok(())
}

/// Shows the Pods, and after that every one whose record changes, until nobody reads any more.
fn watch(paths: &Paths, scope: &Scope, args: &GetArgs) -> Result<ExitCode, Failure> {
    let mut changes = Changes::of(paths)?;
    let mut watch = Watch::start(PodRecords::new(paths.clone()), scope, args)?;
    loop {
        let changed = changes.wait(None, &[])?;
        emit(&watch.after(&changed)?)?;
    }
}

/// What was shown of watched Pods.
struct Watch<'a> {
    records: PodRecords,
    scope: &'a Scope,
    args: &'a GetArgs,
    columns: Columns,
    has_header: bool,
    known: BTreeMap<String, Pod>,
}

impl<'a> Watch<'a> {
    fn start(records: PodRecords, scope: &'a Scope, args: &'a GetArgs) -> Result<Self, Failure> {
        let snapshot = Snapshot::read(&records, scope)?;
        if let Some(name) = snapshot.missing.first()
            && !args.ignore_not_found
        {
            return Err(not_found(&name.name).into());
        }
        let mut watch = Self {
            records,
            scope,
            args,
            columns: Columns::default(),
            has_header: args.show.no_headers,
            known: BTreeMap::new(),
        };
        if !args.watch_only {
            emit(&watch.text(&snapshot.pods)?)?;
        }
        for error in snapshot.damaged {
            complain(&error.into());
        }
        watch.known = snapshot
            .pods
            .into_iter()
            .filter_map(|pod| Some((pod.metadata.uid.clone()?, pod)))
            .collect();
        Ok(watch)
    }

    /// What is to be shown after a change.
    fn after(&mut self, changed: &Changed) -> anyhow::Result<String> {
        let uids = match changed {
            Changed::Pods(uids) => uids.clone(),
            Changed::Everything => self
                .records
                .uids()?
                .into_iter()
                .chain(self.known.keys().cloned())
                .collect(),
            Changed::Other | Changed::Nothing => return Ok(String::new()),
        };
        let mut news = Vec::new();
        for uid in uids {
            let record = self.records.visible(&uid);
            let pod = record.and_then(|record| match record {
                Some(record) if snapshot::is_meant(&record, self.scope) => snapshot::object(&self.records, record),
                _ => Ok(None),
            });
            match pod {
                Ok(Some(pod)) => {
                    if self.known.get(&uid) != Some(&pod) {
                        news.push(pod.clone());
                        self.known.insert(uid, pod);
                    }
                }
                // As kubectl does, the last that was known of it once more.
                Ok(None) => news.extend(self.known.remove(&uid)),
                Err(error) => complain(&error.into()),
            }
        }
        self.text(&news)
    }

    fn text(&mut self, pods: &[Pod]) -> anyhow::Result<String> {
        let now = Timestamp::now();
        let show = &self.args.show;
        match &show.output {
            None | Some(Format::Wide) => {
                let mut rows: Vec<_> = pods.iter().map(|pod| row(pod, self.scope, show, now)).collect();
                if !self.has_header && !rows.is_empty() {
                    rows.insert(0, header(self.scope, show));
                    self.has_header = true;
                }
                Ok(self.columns.lines(&rows))
            }
            Some(format) => {
                let mut text = String::new();
                for pod in pods {
                    if matches!(format, Format::Yaml) {
                        text.push_str("---\n");
                    }
                    text += &format.print(&Objects::of(std::slice::from_ref(pod), true)?, !self.has_header)?;
                    self.has_header = true;
                }
                Ok(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::json;

    use super::super::pods::test_pods::{CREATED, TestPods};
    use super::*;
    use crate::state::StatusRecord;

    fn scope(namespace: Option<&str>, names: &[&str]) -> Scope {
        Scope::of_names(namespace, names.iter().copied())
    }

    fn later() -> Timestamp {
        CREATED.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(200)
    }

    fn running(ip: &str) -> Value {
        json!({
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{ "ip": ip }],
            "containerStatuses": [{
                "name": "main", "image": "", "imageID": "", "restartCount": 0, "ready": true, "state": { "running": {} },
            }],
        })
    }

    fn args(watch: bool) -> GetArgs {
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            args: GetArgs,
        }
        let words: &[&str] = if watch {
            &["get", "pods", "-w"]
        } else {
            &["get", "pods"]
        };
        <Cli as clap::Parser>::try_parse_from(words).unwrap().args
    }

    #[test]
    fn the_table_is_that_of_kubectl() {
        let pods = TestPods::new();
        let web = pods.add("web", &[("app", "shop"), ("tier", "front")]);
        pods.add("db", &[]);
        pods.add_to("other", "job", &[]);
        pods.set_status(&web, running("10.88.0.5"));
        let table = |scope: &Scope, show: &Show| {
            let snapshot = Snapshot::read(&pods.records, scope).unwrap();
            text(&snapshot.pods, scope, show, later()).unwrap()
        };
        assert_eq!(
            table(&scope(Some("default"), &[]), &Show::default()),
            "\
NAME   READY   STATUS    RESTARTS   AGE
db     0/1     Pending   0          3m20s
web    1/1     Running   0          3m20s
"
        );
        let show = Show {
            output: Some(Format::Wide),
            show_labels: true,
            ..Show::default()
        };
        assert_eq!(
            table(&scope(None, &[]), &show),
            "\
NAMESPACE   NAME   READY   STATUS    RESTARTS   AGE     IP          NODE     NOMINATED NODE   READINESS GATES   LABELS
default     db     0/1     Pending   0          3m20s   <none>      <none>   <none>           <none>            <none>
default     web    1/1     Running   0          3m20s   10.88.0.5   <none>   <none>           <none>            app=shop,tier=front
other       job    0/1     Pending   0          3m20s   <none>      <none>   <none>           <none>            <none>
"
        );
        let name = Show {
            output: Some(Format::Name),
            ..Show::default()
        };
        assert_eq!(
            table(&scope(Some("default"), &["web", "db"]), &name),
            "pod/web\npod/db\n"
        );
        let mut selected = scope(Some("default"), &[]);
        selected.selector = "app in (shop),tier!=back".parse().unwrap();
        assert_eq!(table(&selected, &name), "pod/web\n");
        let quiet = Show {
            no_headers: true,
            ..Show::default()
        };
        assert_eq!(
            table(&scope(Some("other"), &[]), &quiet),
            "job   0/1   Pending   0     3m20s\n"
        );
    }

    #[test]
    fn pods_that_do_not_exist_or_are_damaged_are_told_and_hide_no_other() {
        let pods = TestPods::new();
        let uids = ["a", "b", "c"].map(|name| pods.add(name, &[]));
        std::fs::write(pods.paths.pod_state(&uids[1]).join("status.json"), "{").unwrap();
        let newer = pods.paths.pod_state(&uids[0]).join("pod.json");
        std::fs::write(newer, r#"{"version": 2}"#).unwrap();
        let all = Snapshot::read(&pods.records, &scope(Some("default"), &[])).unwrap();
        assert_eq!((all.pods.len(), all.damaged.len()), (1, 2));
        assert!(all.damaged[0].newer_path().is_some(), "{:?}", all.damaged);

        let snapshot = Snapshot::read(&pods.records, &scope(Some("default"), &["c", "none", "b"])).unwrap();
        assert_eq!(snapshot.missing, scope(Some("default"), &["none"]).names);
        let names: Vec<_> = snapshot
            .pods
            .iter()
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["c"]);
        let damaged: Vec<_> = snapshot.damaged.iter().map(ToString::to_string).collect();
        assert!(
            damaged.iter().any(|said| said.contains("status.json is damaged")),
            "{damaged:?}"
        );
        assert_eq!(
            not_found("none").to_string(),
            "Error from server (NotFound): pods \"none\" not found"
        );
    }

    #[test]
    fn pods_are_sorted_by_any_field() {
        let pods = TestPods::new();
        for (name, ip) in [("a", "10.0.0.9"), ("b", "10.0.0.1")] {
            let uid = pods.add(name, &[]);
            pods.set_status(&uid, running(ip));
        }
        pods.add("c", &[]);
        let mut snapshot = Snapshot::read(&pods.records, &scope(None, &[])).unwrap();
        sort(&mut snapshot.pods, &Template::parse_relaxed(".status.podIP").unwrap()).unwrap();
        let names: Vec<_> = snapshot
            .pods
            .iter()
            .filter_map(|pod| pod.metadata.name.as_deref())
            .collect();
        assert_eq!(names, ["c", "b", "a"]);
    }

    #[test]
    fn every_change_is_shown_once_and_a_deleted_pod_a_last_time() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let (scope, args) = (scope(Some("default"), &[]), args(true));
        let mut changes = Changes::of(&pods.paths).unwrap();
        let mut watch = Watch::start(pods.records.clone(), &scope, &args).unwrap();
        let mut next = || {
            let deadline = Instant::now() + std::time::Duration::from_secs(60);
            watch.after(&changes.wait(Some(deadline), &[]).unwrap()).unwrap()
        };
        pods.set_status(&uid, running("10.88.0.5"));
        let line = next();
        assert!(line.starts_with("web    1/1     Running   0          "), "{line:?}");
        assert_eq!(line.lines().count(), 1);
        pods.set_status(&uid, running("10.88.0.5"));
        assert_eq!(next(), "");
        pods.add("a-longer-name", &[]);
        assert!(next().starts_with("a-longer-name   0/1     Pending   0 "));
        pods.records.remove(&uid).unwrap();
        assert!(next().starts_with("web             1/1     Running"));
    }

    #[test]
    fn a_pod_deleted_by_force_is_shown_a_last_time_and_a_deletion_makes_a_generation() {
        let pods = TestPods::new();
        let uid = pods.add("web", &[]);
        let mut record = pods.records.get(&uid).unwrap().unwrap();
        record.pod.metadata.generation = Some(1);
        pods.records.save(&record).unwrap();
        let (scope, args) = (scope(Some("default"), &[]), args(true));
        let generation = || {
            let snapshot = Snapshot::read(&pods.records, &scope).unwrap();
            snapshot.pods.first().map(|pod| pod.metadata.generation)
        };
        assert_eq!(generation(), Some(Some(1)));
        let deleted = StatusRecord {
            deletion_timestamp: Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(later())),
            ..StatusRecord::pending()
        };
        pods.records.save_status(&uid, &deleted).unwrap();
        assert_eq!(generation(), Some(Some(2)));

        let mut changes = Changes::of(&pods.paths).unwrap();
        let mut watch = Watch::start(pods.records.clone(), &scope, &args).unwrap();
        let mut next = || {
            let deadline = Instant::now() + std::time::Duration::from_secs(60);
            watch.after(&changes.wait(Some(deadline), &[]).unwrap()).unwrap()
        };
        pods.records.hide(&uid).unwrap();
        assert!(next().starts_with("web    0/1     Terminating"));
        pods.set_status(&uid, running("10.88.0.5"));
        assert_eq!(next(), "");
        assert_eq!(generation(), None);
    }

    #[test]
    fn pods_are_sorted_by_a_key_with_dots() {
        let pods = TestPods::new();
        for (name, app) in [("a", "zoo"), ("b", "ant")] {
            pods.add(name, &[("app.kubernetes.io/name", app)]);
        }
        for path in [
            r"{.metadata.labels['app\.kubernetes\.io/name']}",
            r".metadata.labels.app\.kubernetes\.io/name",
            r"{['metadata.labels.app\.kubernetes\.io/name']}",
        ] {
            let mut snapshot = Snapshot::read(&pods.records, &scope(None, &[])).unwrap();
            sort(&mut snapshot.pods, &Template::parse_relaxed(path).unwrap()).unwrap();
            let names: Vec<_> = snapshot
                .pods
                .iter()
                .filter_map(|pod| pod.metadata.name.as_deref())
                .collect();
            assert_eq!(names, ["b", "a"], "{path}");
        }
    }

    #[test]
    fn a_hundred_pods_are_listed_in_one_reading() {
        let pods = TestPods::new();
        for n in 0..100 {
            let uid = pods.add(&format!("web-{n:03}"), &[("app", "shop")]);
            pods.set_status(&uid, running("10.88.0.5"));
        }
        let scope = scope(Some("default"), &[]);
        let start = Instant::now();
        let snapshot = Snapshot::read(&pods.records, &scope).unwrap();
        let table = text(&snapshot.pods, &scope, &Show::default(), later()).unwrap();
        say!("100 Pods in {:?}", start.elapsed());
        assert_eq!(table.lines().count(), 101);
        assert!(table.lines().skip(1).all(|line| line.contains("1/1     Running")));
    }
}
