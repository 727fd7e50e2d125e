//! Changes of Pods that have ended, and of Pods with supervisors that the tests simulate.

use std::convert::Infallible;

use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::*;
use crate::pod::supervisor_protocol::write_frame;
use crate::pod::sweep::remove_ownerless;
use crate::pod::test_pods::{CREATED, TestPods, asked, manifest};

fn label(pod: &Pod, key: &str, value: &str) -> Pod {
    let mut pod = pod.clone();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(key.to_owned(), value.to_owned());
    pod
}

async fn change(
    pods: &TestPods,
    part: Part,
    mode: Mode,
    change: &mut dyn FnMut(&Pod) -> Pod,
) -> Result<Updated, UpdateError<Infallible>> {
    let mut change = |pod: &Pod| Ok(change(pod));
    update(&pods.paths, "default", "web", part, mode, &mut change).await
}

fn web() -> Value {
    manifest("web", "nginx:1", "a")
}

#[tokio::test]
async fn an_ended_pod_is_changed_with_a_new_version_and_without_a_new_generation() {
    let pods = TestPods::new();
    let uid = pods.add_ended(&web());
    let mut versions = Vec::new();
    for value in ["a", "b"] {
        let changed = change(&pods, Part::Pod, Mode::Write, &mut |pod| label(pod, "tier", value)).await;
        let Updated::Changed(pod) = changed.unwrap() else {
            panic!("unchanged")
        };
        assert_eq!(pod.metadata.labels.unwrap()["tier"], value);
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Succeeded"));
        versions.push(pod.metadata.resource_version.unwrap().parse::<u64>().unwrap());
    }
    assert!(versions[0] < versions[1]);
    let again = change(&pods, Part::Pod, Mode::Write, &mut |pod| label(pod, "tier", "b")).await;
    assert!(matches!(again.unwrap(), Updated::Unchanged(_)));
    let record = pods.records.get(&uid).unwrap().unwrap();
    assert_eq!(record.pod.metadata.generation, None);
    assert_eq!(record.pod.metadata.resource_version, Some(versions[1].to_string()));
    assert!(record.pod.status.is_none());
}

#[tokio::test]
async fn a_dry_run_reports_the_result_and_changes_nothing() {
    let pods = TestPods::new();
    let uid = pods.add_ended(&web());
    let before = pods.records.get(&uid).unwrap();
    let changed = change(&pods, Part::Pod, Mode::DryRun, &mut |pod| label(pod, "tier", "a")).await;
    let Updated::Changed(pod) = changed.unwrap() else {
        panic!("unchanged")
    };
    assert_eq!(pod.metadata.labels.unwrap()["tier"], "a");
    assert_eq!(pods.records.get(&uid).unwrap(), before);
}

#[tokio::test]
async fn a_dry_run_differs_from_the_live_pod_only_in_the_change() {
    let pods = TestPods::new();
    let uid = pods.add_ended(&web());
    let live = || {
        let record = pods.records.get(&uid).unwrap().unwrap();
        recorded_pod::object(&pods.records, record).unwrap().unwrap()
    };
    let dry_run = async || {
        let changed = change(&pods, Part::Pod, Mode::DryRun, &mut |pod| label(pod, "tier", "a")).await;
        changed.unwrap().into_pod()
    };
    let mut record = pods.records.get(&uid).unwrap().unwrap();
    record.pod.metadata.generation = Some(1);
    pod_update::schedule(&mut record.pod);
    pods.records.save(&record).unwrap();
    // The status was written after the Pod.
    assert_ne!(live().metadata.resource_version, record.pod.metadata.resource_version);
    assert_eq!(dry_run().await, label(&live(), "tier", "a"));

    let mut status = pods.records.status(&uid).unwrap().unwrap();
    status.deletion_timestamp = Some(Time(CREATED.parse().unwrap()));
    status.deletion_grace_period_seconds = Some(30);
    pods.save_status(&uid, status);
    assert_eq!(dry_run().await, label(&live(), "tier", "a"));
}

#[tokio::test]
async fn missing_pods_invalid_changes_and_old_versions_have_kubernetes_messages() {
    let pods = TestPods::new();
    let none = change(&pods, Part::Pod, Mode::Write, &mut Pod::clone).await;
    assert_eq!(none.unwrap_err().to_string(), "pods \"web\" not found");
    pods.add_ended(&web());
    let mut rename = |pod: &Pod| {
        let mut pod = label(pod, "-", "a");
        pod.metadata.name = Some("db".to_owned());
        pod
    };
    let error = change(&pods, Part::Pod, Mode::Write, &mut rename).await.unwrap_err();
    let said = error.to_string();
    assert!(said.starts_with("Pod \"web\" is invalid: [metadata.name: Invalid value: \"db\": field is immutable, "));
    let mut other_version = |pod: &Pod| {
        let mut pod = label(pod, "tier", "a");
        pod.metadata.resource_version = Some("1".to_owned());
        pod
    };
    let error = change(&pods, Part::Pod, Mode::Write, &mut other_version)
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Operation cannot be fulfilled on pods \"web\": the object has been modified; please apply your changes to the latest \
         version and try again"
    );
}

#[tokio::test]
async fn the_supervisor_records_the_change_and_an_outdated_one_is_repeated() {
    let pods = TestPods::new();
    let (uid, _lock) = pods.add_owned(&web());
    let listener = UnixListener::bind(pods.paths.supervisor_socket(&uid)).unwrap();
    let records = pods.records.clone();
    let created = records.get(&uid).unwrap().unwrap().pod.metadata.resource_version;
    assert!(created.is_some());
    let supervisor = async {
        let mut asked_for = Vec::new();
        for number in 1..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Some(SupervisorRequest::Update(request)) = asked(&mut stream).await else {
                panic!("no update")
            };
            let Change::Pod(wanted) = request.change else {
                panic!("no Pod")
            };
            let mut record = records.get(&uid).unwrap().unwrap();
            let answer = if number == 1 {
                record.pod = label(&record.pod, "other", "x");
                Notice::Outdated
            } else {
                record.pod = Pod::clone(&wanted);
                Notice::Done
            };
            record.pod.metadata.resource_version = Some(number.to_string());
            records.save(&record).unwrap();
            asked_for.push((request.since, wanted.metadata.labels.unwrap().len()));
            write_frame(&mut stream, &SupervisorFrame::Notice(answer))
                .await
                .unwrap();
        }
        asked_for
    };
    let mut calls = 0;
    let mut tier = |pod: &Pod| {
        calls += 1;
        label(pod, "tier", "a")
    };
    let changed = change(&pods, Part::Pod, Mode::Write, &mut tier);
    let (asked_for, changed) = tokio::join!(supervisor, changed);
    assert_eq!(asked_for, [(created, 1), (Some("1".to_owned()), 2)]);
    let Updated::Changed(pod) = changed.unwrap() else {
        panic!("unchanged")
    };
    assert_eq!(pod.metadata.resource_version.as_deref(), Some("2"));
    assert_eq!(calls, 2);
}

#[tokio::test]
async fn clients_set_only_conditions_that_are_not_the_supervisors() {
    let pods = TestPods::new();
    let uid = pods.add_ended(&web());
    pods.set_status(
        &uid,
        json!({ "phase": "Failed", "conditions": [{ "type": "Ready", "status": "False" }] }),
    );
    let condition = |kind: &str, status: &str| PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        ..PodCondition::default()
    };
    let mut set = |pod: &Pod| {
        let mut pod = pod.clone();
        let status = pod.status.get_or_insert_default();
        status.phase = Some("Running".to_owned());
        status.conditions = Some(vec![condition("Ready", "True"), condition("example.com/a", "True")]);
        pod
    };
    let Updated::Changed(pod) = change(&pods, Part::Status, Mode::Write, &mut set).await.unwrap() else {
        panic!("unchanged")
    };
    let status = pod.status.unwrap();
    assert_eq!(status.phase.as_deref(), Some("Failed"));
    assert_eq!(
        status.conditions.unwrap(),
        [condition("Ready", "False"), condition("example.com/a", "True")]
    );
    let again = change(&pods, Part::Status, Mode::Write, &mut set).await.unwrap();
    assert!(matches!(again, Updated::Unchanged(_)));
    let mut invalid = |pod: &Pod| {
        let mut pod = pod.clone();
        pod.status.get_or_insert_default().conditions = Some(vec![condition("example.com/a", "yes")]);
        pod
    };
    let error = change(&pods, Part::Status, Mode::Write, &mut invalid)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("status.conditions[0].status: Unsupported value: \"yes\"")
    );
}

#[tokio::test]
async fn a_deleted_pod_stays_until_its_finalizers_are_removed() {
    let pods = TestPods::new();
    let mut with_finalizer = web();
    with_finalizer["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let uid = pods.add_ended(&with_finalizer);
    assert!(remove_ownerless(&pods.paths, &uid).await.unwrap());
    let status = pods.records.status(&uid).unwrap().unwrap();
    assert!(status.deletion_timestamp.is_some() && status.resource_version.is_some());
    assert!(!pods.records.is_gone(&uid));
    // A second deletion changes nothing.
    assert!(remove_ownerless(&pods.paths, &uid).await.unwrap());
    let again = pods.records.status(&uid).unwrap().unwrap();
    assert_eq!(again.deletion_timestamp, status.deletion_timestamp);

    let mut more = |pod: &Pod| {
        let mut pod = pod.clone();
        pod.metadata
            .finalizers
            .get_or_insert_default()
            .push("example.com/more".to_owned());
        pod
    };
    let error = change(&pods, Part::Pod, Mode::Write, &mut more).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no new finalizers can be added if the object is being deleted")
    );

    let mut none = |pod: &Pod| {
        let mut pod = pod.clone();
        pod.metadata.finalizers = None;
        pod
    };
    let removed = change(&pods, Part::Pod, Mode::Write, &mut none).await.unwrap();
    assert!(removed.into_pod().metadata.deletion_timestamp.is_some());
    assert!(pods.records.is_gone(&uid) && pods.records.uids().unwrap().is_empty());
}
