//! `microkube describe`: an object on one page, in the layout of `kubectl describe`; this file has the page of a Pod.

mod container;
mod event_list;
mod metadata;
mod object;
mod page;
mod volume;

use std::process::ExitCode;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus, Toleration};
use microkube_manifest::ephemeral::as_container;
use microkube_manifest::kinds::Kind;
use microkube_manifest::resources;
use serde::Deserialize;
use serde_json::Value;

use super::failure::{Failure, complain};
use super::objects::arguments::{Group, ObjectArgs, Requested, not_found};
use super::objects::listing::Reader;
use super::pods::arguments::{ScopeArgs, SelectorArg};
use super::pods_host::{self, Place, Purpose};
use super::print::emit;
use super::table::since;
use crate::state::{EventRecord, PodRecords, object_events};
use crate::stderr::say;
use event_list::Listed;
use metadata::{annotations, labels};
use object::Surroundings;
use page::Page;

/// Show details of Pods and other objects, including the events of Pods, volume claims and volumes
///
/// If no object has the given name, shows all objects of the type whose names start with it. For Secrets, shows only
/// the sizes of the values.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  microkube describe pod web\n  microkube describe pods -l app=shop\n  microkube describe cm/settings \
                  secret/tls\n  microkube describe -f pod.yaml"
)]
pub struct DescribeArgs {
    #[command(flatten)]
    objects: ObjectArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    selector: SelectorArg,
    /// Show the events of the objects
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    show_events: bool,
}

pub(super) fn run(args: DescribeArgs) -> Result<ExitCode, Failure> {
    let requested = Requested::new(&args.objects, &args.scope, &args.selector, None)?;
    // Objects other than Pods exist even while the emulated host does not run.
    let purpose = match requested.is_only_pods() {
        true => Purpose::Look,
        false => Purpose::Follow,
    };
    let paths = match pods_host::go_to_pods(purpose, requested.consumed_stdin.as_deref())? {
        Place::Elsewhere(exit_code) => return Ok(exit_code),
        Place::Here(paths) => paths,
    };
    let reader = Reader::new(paths);
    let (now, zone) = (Timestamp::now(), TimeZone::system());
    let mut failed = false;
    let mut separator = "";
    for group in &requested.groups {
        let mut listing = reader.read(group, &requested)?;
        for missing in std::mem::take(&mut listing.missing) {
            // A manifest names exactly one object, so no prefix match.
            let longer = match requested.is_from_files {
                true => Vec::new(),
                false => with_prefix(&reader, &requested, group.kind, &missing.name)?,
            };
            if longer.is_empty() {
                complain(&not_found(group.kind, &missing.name));
                failed = true;
            }
            listing.objects.extend(longer);
        }
        for object in &listing.objects {
            match describe(&reader, group.kind, object, args.show_events, now, &zone) {
                Ok(page) => emit(&format!("{separator}{page}"))?,
                Err(error) => {
                    complain(&error);
                    failed = true;
                }
            }
            separator = "\n\n";
        }
        for error in listing.damaged {
            complain(&error);
            failed = true;
        }
    }
    if separator.is_empty() && !requested.has_names() {
        say!("{}", requested.nothing_found());
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The objects whose names begin with `prefix`.
fn with_prefix(
    reader: &Reader,
    requested: &Requested,
    kind: &'static Kind,
    prefix: &str,
) -> anyhow::Result<Vec<Value>> {
    let all = Group {
        kind,
        names: Vec::new(),
    };
    let name = |object: &Value| {
        object
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .map(str::to_owned)
    };
    let begins_so = |object: &Value| name(object).is_some_and(|name| name.starts_with(prefix));
    let objects = reader.read(&all, requested)?.objects.into_iter();
    Ok(objects.filter(begins_so).collect())
}

/// The page of an object.
fn describe(
    reader: &Reader,
    kind: &'static Kind,
    object: &Value,
    show_events: bool,
    now: Timestamp,
    zone: &TimeZone,
) -> anyhow::Result<String> {
    if kind.kind != "Pod" {
        let surroundings = Surroundings::read(reader, kind, object)?;
        let mut events = None;
        if show_events {
            match object_events(reader.paths(), now.into()) {
                Ok(found) => events = Some(found),
                Err(error) => complain(&error.into()),
            }
        }
        return Ok(object::page(kind, object, &surroundings, events.as_deref(), now, zone));
    }
    let pod = Pod::deserialize(object)?;
    let mut events = None;
    if let Some(uid) = pod.metadata.uid.as_deref().filter(|_| show_events) {
        match PodRecords::new(reader.paths().clone()).events(uid) {
            Ok(found) => events = Some(found),
            Err(error) => complain(&error.into()),
        }
    }
    Ok(page(&pod, events.as_deref(), now, zone))
}

/// The page of one Pod.
fn page(pod: &Pod, events: Option<&[EventRecord]>, now: Timestamp, zone: &TimeZone) -> String {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let mut page = Page::new(zone.clone());
    head(&mut page, pod, spec, status, now);
    let ephemeral: Vec<_> = spec.ephemeral_containers.iter().flatten().map(as_container).collect();
    for (title, containers, statuses) in [
        (
            "Init Containers",
            spec.init_containers.as_deref().unwrap_or_default(),
            &status.init_container_statuses,
        ),
        ("Containers", spec.containers.as_slice(), &status.container_statuses),
        (
            "Ephemeral Containers",
            ephemeral.as_slice(),
            &status.ephemeral_container_statuses,
        ),
    ] {
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
        let from = super::events::COMPONENT;
        event_list::list(&mut page, events.iter().map(|event| Listed { from, event }), now);
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

#[cfg(test)]
mod tests;
