//! `microkube describe`: a Pod and its events on one page, laid out as `kubectl describe pod` does.

mod container;
mod page;
mod volume;

use std::collections::BTreeMap;
use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Toleration};
use microkube_manifest::resources;

use super::failure::{Failure, complain};
use super::pods::arguments::{ResourceArgs, Scope, ScopeArgs, SelectorArg, not_found};
use super::pods::snapshot::Snapshot;
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::table::since;
use crate::state::{EventRecord, PodRecords};
use crate::stderr::say;
use page::Page;

/// Longest line of an annotation.
const MAX_ANNOTATION: usize = 140;

/// Show Pods in detail, with their events
///
/// A name that no Pod has stands for all Pods whose names begin with it.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube describe pod web\n  microkube describe pods -l app=shop\n  microkube describe -f pod.yaml"
)]
pub struct DescribeArgs {
    #[command(flatten)]
    resources: ResourceArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Show the Pods' events
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    show_events: bool,
}

/// Runs the verb.
pub(super) fn run(args: DescribeArgs) -> Result<ExitCode, Failure> {
    let (scope, consumed_stdin) = Scope::new(&args.resources, &args.scope, &args.selector)?;
    let paths = match pods_host::go_to_pods(Purpose::Look, consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let records = PodRecords::new(paths);
    let mut snapshot = Snapshot::read(&records, &scope)?;
    let mut failed = false;
    for missing in std::mem::take(&mut snapshot.missing) {
        // What a manifest names is that Pod and no other.
        let is_from_file = !args.resources.files.filename.is_empty();
        let longer = match is_from_file {
            true => Vec::new(),
            false => with_prefix(&records, &scope, &missing.name)?,
        };
        if longer.is_empty() {
            complain(&not_found(&missing.name));
            failed = true;
        }
        snapshot.pods.extend(longer);
    }
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    for (index, pod) in snapshot.pods.iter().enumerate() {
        let events = match pod.metadata.uid.as_deref().filter(|_| args.show_events) {
            Some(uid) => match records.events(uid) {
                Ok(events) => Some(events),
                Err(error) => {
                    complain(&error.into());
                    failed = true;
                    None
                }
            },
            None => None,
        };
        let separator = if index > 0 { "\n\n" } else { "" };
        emit(&format!("{separator}{}", page(pod, events.as_deref(), now, &zone)))?;
    }
    for error in snapshot.damaged {
        complain(&error.into());
        failed = true;
    }
    if snapshot.pods.is_empty() && scope.names.is_empty() {
        say!("{}", scope.nothing_found());
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The Pods whose names begin so.
fn with_prefix(records: &PodRecords, scope: &Scope, prefix: &str) -> anyhow::Result<Vec<Pod>> {
    let all = Scope {
        names: Vec::new(),
        ..scope.clone()
    };
    let begins_so = |pod: &Pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with(prefix));
    Ok(Snapshot::read(records, &all)?
        .pods
        .into_iter()
        .filter(begins_so)
        .collect())
}

/// The page of one Pod.
fn page(pod: &Pod, events: Option<&[EventRecord]>, now: Timestamp, zone: &TimeZone) -> String {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let mut page = Page::new(zone.clone());
    head(&mut page, pod, spec, status, now);
    for (title, containers, statuses) in [
        (
            "Init Containers",
            spec.init_containers.as_deref(),
            &status.init_container_statuses,
        ),
        (
            "Containers",
            Some(spec.containers.as_slice()),
            &status.container_statuses,
        ),
    ] {
        let containers = containers.unwrap_or_default();
        if containers.is_empty() {
            continue;
        }
        page.title(0, title);
        for container in containers {
            let status = statuses.iter().flatten().find(|status| status.name == container.name);
            container::describe(&mut page, container, status, pod);
        }
    }
    tail(&mut page, pod, spec, status);
    if let Some(events) = events {
        list_events(&mut page, events, now);
    }
    page.finish()
}

fn head(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus, now: Timestamp) {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let metadata = &pod.metadata;
    page.field(0, "Name", &text(&metadata.name));
    page.field(0, "Namespace", &text(&metadata.namespace));
    if let Some(priority) = spec.priority {
        page.field(0, "Priority", &priority.to_string());
    }
    for (name, value) in [
        ("Priority Class Name", &spec.priority_class_name),
        ("Runtime Class Name", &spec.runtime_class_name),
        ("Service Account", &spec.service_account_name),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            page.field(0, name, value);
        }
    }
    match spec.node_name.as_deref() {
        None | Some("") => page.field(0, "Node", "<none>"),
        Some(node) => page.field(0, "Node", &format!("{node}/{}", text(&status.host_ip))),
    }
    if let Some(start) = &status.start_time {
        page.time(0, "Start Time", Some(start));
    }
    labels(page, "Labels", metadata.labels.as_ref());
    annotations(page, metadata.annotations.as_ref());
    let phase = text(&status.phase);
    match &metadata.deletion_timestamp {
        Some(deleted) if phase != "Succeeded" && phase != "Failed" => {
            page.field(
                0,
                "Status",
                &format!("Terminating (lasts {})", since(Some(deleted.0), now)),
            );
            let grace = metadata.deletion_grace_period_seconds.unwrap_or_default();
            page.field(0, "Termination Grace Period", &format!("{grace}s"));
        }
        _ => page.field(0, "Status", &phase),
    }
    for (name, value) in [("Reason", &status.reason), ("Message", &status.message)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            page.field(0, name, value);
        }
    }
    let context = spec.security_context.as_ref();
    if let Some(profile) = context.and_then(|context| context.seccomp_profile.as_ref()) {
        page.field(0, "SeccompProfile", &profile.type_);
    }
    page.field(0, "IP", &text(&status.pod_ip));
    let ips: Vec<_> = status.pod_ips.iter().flatten().collect();
    if ips.is_empty() {
        page.field(0, "IPs", "<none>");
    } else {
        page.title(0, "IPs");
        for ip in ips {
            page.field(1, "IP", &ip.ip);
        }
    }
}

fn tail(page: &mut Page, pod: &Pod, spec: &PodSpec, status: &PodStatus) {
    let gates: Vec<_> = spec.readiness_gates.iter().flatten().collect();
    let conditions: Vec<_> = status.conditions.iter().flatten().collect();
    if !gates.is_empty() {
        page.title(0, "Readiness Gates");
        page.cells(1, &["Type", "Status"]);
        for gate in gates {
            let condition = conditions
                .iter()
                .find(|condition| condition.type_ == gate.condition_type);
            let status = condition.map_or("<none>", |condition| condition.status.as_str());
            page.cells(1, &[&format!("{} ", gate.condition_type), status]);
        }
    }
    if !conditions.is_empty() {
        page.title(0, "Conditions");
        page.cells(1, &["Type", "Status"]);
        for condition in conditions {
            page.cells(1, &[&format!("{} ", condition.type_), &condition.status]);
        }
    }
    volume::describe(page, spec.volumes.as_deref().unwrap_or_default());
    let computed = || resources::qos_class(pod).as_str().to_owned();
    page.field(0, "QoS Class", &status.qos_class.clone().unwrap_or_else(computed));
    labels(page, "Node-Selectors", spec.node_selector.as_ref());
    let tolerations: Vec<String> = spec.tolerations.iter().flatten().map(toleration).collect();
    page.list(0, "Tolerations", &tolerations);
}

fn labels(page: &mut Page, title: &str, labels: Option<&BTreeMap<String, String>>) {
    let lines: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    page.list(0, title, &lines);
}

fn annotations(page: &mut Page, annotations: Option<&BTreeMap<String, String>>) {
    let mut lines = Vec::new();
    for (key, value) in annotations.into_iter().flatten() {
        let value = value.strip_suffix('\n').unwrap_or(value);
        if value.len() + key.len() + 2 > MAX_ANNOTATION || value.contains('\n') {
            lines.push(format!("{key}:"));
            lines.extend(
                value
                    .split('\n')
                    .map(|line| format!("  {}", shortened(line, MAX_ANNOTATION - 2))),
            );
        } else {
            lines.push(format!("{key}: {value}"));
        }
    }
    page.list(0, "Annotations", &lines);
}

fn shortened(line: &str, length: usize) -> String {
    if line.chars().count() <= length {
        return line.to_owned();
    }
    line.chars().take(length).chain("...".chars()).collect()
}

fn toleration(toleration: &Toleration) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (key, value, effect) = (text(&toleration.key), text(&toleration.value), text(&toleration.effect));
    let mut line = key;
    if !value.is_empty() {
        line += &format!("={value}");
    }
    if !effect.is_empty() {
        line += &format!(":{effect}");
    }
    if toleration.operator.as_deref() == Some("Exists") && value.is_empty() {
        line += if line.is_empty() { "op=Exists" } else { " op=Exists" };
    }
    if let Some(seconds) = toleration.toleration_seconds {
        line += &format!(" for {seconds}s");
    }
    line
}

fn list_events(page: &mut Page, events: &[EventRecord], now: Timestamp) {
    if events.is_empty() {
        page.field(0, "Events", "<none>");
        return;
    }
    let mut events: Vec<&EventRecord> = events.iter().collect();
    events.sort_by_key(|event| event.last_seen);
    page.section();
    page.title(0, "Events");
    page.cells(1, &["Type", "Reason", "Age", "From", "Message"]);
    page.cells(1, &["----", "------", "----", "----", "-------"]);
    for event in events {
        page.cells(
            1,
            &[
                super::events::kind(event),
                &event.reason,
                &super::events::age(event, now),
                super::events::COMPONENT,
                event.message.trim(),
            ],
        );
    }
}

#[cfg(test)]
mod tests;
