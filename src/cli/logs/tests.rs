//! The verb, on records and logs as a supervisor writes them.

use clap::Parser;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::pod::logs::{Limits, LogWriter, container_dir};
use crate::pod::operations::logs::has_ended;
use crate::pod::supervisor_protocol::OutputStream;
use crate::state::{PodRecord, StatusRecord};

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    args: LogsArgs,
}

fn args(line: &str) -> LogsArgs {
    CommandLine::try_parse_from(std::iter::once("logs").chain(line.split_whitespace()))
        .unwrap()
        .args
}

/// Pods with logs.
struct Host {
    _dir: TempDir,
    paths: Paths,
    records: PodRecords,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path().join("state"), dir.path().join("run"));
        Self {
            _dir: dir,
            records: PodRecords::new(paths.clone()),
            paths,
        }
    }

    /// A Pod whose UID is its name, with the label app=NAME.
    fn pod(&self, name: &str, containers: &[&str], policy: &str) {
        let containers: Vec<Value> = containers.iter().map(|name| json!({ "name": name })).collect();
        let pod: Pod = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "labels": { "app": "shop" } },
            "spec": { "containers": containers, "restartPolicy": policy },
        }))
        .unwrap();
        let record = json!({
            "uid": name, "namespace": "default", "name": name, "pod": pod, "client": null, "supervisor": null, "vmm": null,
        });
        let record: PodRecord = serde_json::from_value(record).unwrap();
        drop(self.records.create(&record).unwrap());
    }

    fn status(&self, pod: &str, phase: &str, containers: Value) {
        let status: PodStatus =
            serde_json::from_value(json!({ "phase": phase, "containerStatuses": containers })).unwrap();
        let status = StatusRecord {
            status,
            ..StatusRecord::default()
        };
        self.records.save_status(pod, &status).unwrap();
    }

    fn log(&self, pod: &str, container: &str, attempt: u32) -> LogWriter {
        LogWriter::open(container_dir(&self.paths, pod, container), attempt, Limits::default())
    }

    fn write(&self, pod: &str, container: &str, attempt: u32, text: &str) {
        let mut log = self.log(pod, container, attempt);
        log.write(OutputStream::Stdout, text.as_bytes(), Timestamp::now());
        log.finish(OutputStream::Stdout, Timestamp::now());
    }

    async fn show(&self, line: &str) -> Result<String, String> {
        let args = args(line);
        let mut text = Vec::new();
        let shown = async {
            args.check()?;
            let (sources, _) = sources(&args, &self.paths)?;
            show(&args, &self.paths, sources, &mut text).await
        };
        match shown.await {
            Ok(()) => Ok(String::from_utf8(text).unwrap()),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}

fn status(name: &str, state: Value, last: Value) -> Value {
    json!({
        "name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state, "lastState": last,
    })
}

fn running(name: &str) -> Value {
    status(name, json!({ "running": {} }), json!({}))
}

fn ended(name: &str, exit_code: i32) -> Value {
    status(name, json!({ "terminated": { "exitCode": exit_code } }), json!({}))
}

#[tokio::test]
async fn logs_of_the_default_or_the_named_container_are_shown() {
    let host = Host::new();
    host.pod("p", &["a", "b"], "Always");
    host.status("p", "Running", json!([running("a"), running("b")]));
    host.write("p", "a", 0, "of a\n");
    host.write("p", "b", 0, "of b, no newline");
    assert_eq!(host.show("p").await.unwrap(), "of a\n");
    for line in ["pod/p b", "p -c b", "pods/p --container=b"] {
        assert_eq!(host.show(line).await.unwrap(), "of b, no newline", "{line}");
    }
    assert_eq!(
        host.show("p --all-containers --prefix").await.unwrap(),
        "[pod/p/a] of a\n[pod/p/b] of b, no newline"
    );
}

#[tokio::test]
async fn unavailable_logs_are_refused_with_the_message_of_kubernetes() {
    let host = Host::new();
    host.pod("p", &["c"], "Always");
    let waiting = |reason: &str| status("c", json!({ "waiting": { "reason": reason } }), json!({}));
    for (status, line, error) in [
        (json!([]), "nope", "Error (NotFound): pods \"nope\" not found"),
        (json!([]), "p -c nope", "container nope is not valid for pod p"),
        (json!([]), "p", "container \"c\" in pod \"p\" is not available"),
        (
            json!([waiting("ContainerCreating")]),
            "p",
            "container \"c\" in pod \"p\" is waiting to start: ContainerCreating",
        ),
        (
            json!([waiting("ErrImagePull")]),
            "p",
            "container \"c\" in pod \"p\" is waiting to start: image can't be pulled",
        ),
        (
            json!([waiting("ImagePullBackOff")]),
            "p -f",
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image",
        ),
        (
            json!([running("c")]),
            "p -p",
            "previous terminated container \"c\" in pod \"p\" not found",
        ),
    ] {
        host.status("p", "Pending", status);
        assert_eq!(host.show(line).await.unwrap_err(), error, "{line}");
    }
}

#[test]
fn a_container_that_could_not_start_has_a_reason_instead_of_a_log() {
    let host = Host::new();
    host.pod("p", &["c"], "Always");
    let end = |reason: &str| json!({ "terminated": { "exitCode": 128, "reason": reason, "message": "exec: \"x\": not found" } });
    let reason = |status: Value| {
        host.status("p", "Running", json!([status]));
        let target = target::find(&host.paths, "default", "p").unwrap();
        Source {
            target,
            container: "c".to_owned(),
        }
        .start_error()
    };
    let expected = "container \"c\" in pod \"p\" terminated (StartError) with exit code 128: exec: \"x\": not found";
    assert_eq!(reason(status("c", end("StartError"), json!({}))).unwrap(), expected);
    let back_off = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    assert_eq!(reason(status("c", back_off, end("StartError"))).unwrap(), expected);
    assert_eq!(reason(status("c", json!({ "running": {} }), end("StartError"))), None);
    assert_eq!(reason(status("c", end("Error"), json!({}))), None);
}

#[tokio::test]
async fn the_log_of_a_pending_start_is_not_shown_yet() {
    let host = Host::new();
    host.pod("p", &["c"], "Always");
    host.write("p", "c", 0, "first\n");
    host.write("p", "c", 1, "");
    let back_off = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    let last = json!({ "terminated": { "exitCode": 1, "containerID": "c-0" } });
    host.status("p", "Running", json!([status("c", back_off, last)]));
    assert_eq!(host.show("p -p").await.unwrap(), "first\n");
    assert_eq!(host.show("p").await.unwrap(), "first\n");
}

#[tokio::test]
async fn the_previous_log_is_from_before_the_last_restart() {
    let host = Host::new();
    host.pod("p", &["c"], "Always");
    host.write("p", "c", 0, "first\n");
    let last = json!({ "terminated": { "exitCode": 1 } });
    let back_off = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
    host.status("p", "Running", json!([status("c", back_off, last.clone())]));
    assert_eq!(host.show("p").await.unwrap(), "first\n");
    assert_eq!(host.show("p -p").await.unwrap(), "first\n");
    host.write("p", "c", 1, "second\n");
    host.status("p", "Running", json!([status("c", json!({ "running": {} }), last)]));
    assert_eq!(host.show("p").await.unwrap(), "second\n");
    assert_eq!(host.show("p -p").await.unwrap(), "first\n");
}

#[tokio::test]
async fn selected_pods_show_their_last_ten_lines() {
    let host = Host::new();
    for pod in ["p2", "p1"] {
        host.pod(pod, &["c"], "Always");
        host.status(pod, "Running", json!([running("c")]));
        let lines: String = (0..15).map(|number| format!("{pod} {number}\n")).collect();
        host.write(pod, "c", 0, &lines);
    }
    let shown = host.show("-l app=shop").await.unwrap();
    assert!(shown.starts_with("p1 5\n") && shown.ends_with("p2 14\n"), "{shown}");
    assert_eq!(shown.lines().count(), 20);
    assert_eq!(host.show("-l app=shop --tail=1").await.unwrap(), "p1 14\np2 14\n");
    assert_eq!(host.show("-l app=other").await.unwrap(), "");
}

#[tokio::test]
async fn an_unreadable_log_is_an_error_unless_errors_are_ignored() {
    let host = Host::new();
    host.pod("p", &["a", "b"], "Always");
    let waiting = status("a", json!({ "waiting": { "reason": "ContainerCreating" } }), json!({}));
    host.status("p", "Pending", json!([waiting, running("b")]));
    host.write("p", "b", 0, "of b\n");
    assert!(host.show("p --all-containers").await.is_err());
    assert_eq!(host.show("p --all-containers --ignore-errors").await.unwrap(), "of b\n");
}

#[tokio::test]
async fn following_continues_across_a_restart_and_ends_with_the_container() {
    let host = std::sync::Arc::new(Host::new());
    host.pod("p", &["c", "other"], "OnFailure");
    host.write("p", "c", 0, "before\n");
    host.status("p", "Running", json!([running("c"), running("other")]));
    let following = tokio::spawn({
        let host = std::sync::Arc::clone(&host);
        async move { host.show("-f p").await.unwrap() }
    });
    tokio::task::yield_now().await;
    // It failed and will be restarted. The second attempt succeeds.
    host.status("p", "Running", json!([ended("c", 1), running("other")]));
    tokio::task::yield_now().await;
    host.write("p", "c", 1, "after\n");
    host.status("p", "Running", json!([ended("c", 0), running("other")]));
    let text = following.await.unwrap();
    // If it is opened after the restart, only the second attempt is shown.
    assert!(text == "before\nafter\n" || text == "after\n", "{text}");
}

#[tokio::test]
async fn several_logs_are_followed_at_once_in_whole_lines() {
    let host = Host::new();
    host.pod("p", &["a", "b"], "Never");
    host.write("p", "a", 0, "a one\na two");
    host.write("p", "b", 0, "b one\nb two");
    host.status("p", "Succeeded", json!([ended("a", 0), ended("b", 0)]));
    let text = host.show("-f p --all-containers --prefix").await.unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let expected = [
        "[pod/p/a] a one",
        "[pod/p/a] a two",
        "[pod/p/b] b one",
        "[pod/p/b] b two",
    ];
    assert_eq!(lines, expected);
    let error = host
        .show("-f p --all-containers --max-log-requests=1")
        .await
        .unwrap_err();
    assert!(error.contains("attempting to follow 2 log streams, but maximum allowed concurrency is 1"));
}

#[test]
fn contradictory_arguments_are_refused() {
    for line in [
        "",
        "p -l a=b",
        "p c -c c",
        "p -c c --all-containers",
        "p --since=1s --since-time=2026-11-21T10:00:00Z",
        "p --tail=-2",
        "p --limit-bytes=0",
    ] {
        assert!(args(line).check().is_err(), "{line:?}");
    }
    for line in ["p", "p c", "-l a=b -f", "p --tail=-1 --since=1h30m --limit-bytes=1"] {
        args(line).check().unwrap();
    }
    // kubectl's documentation writes switches with values.
    let given = args("--all-containers=true --timestamps=false --prefix p");
    assert!(given.all_containers && !given.timestamps && given.prefix);
    assert_eq!(given.pod.as_deref(), Some("p"));
    assert_eq!(parse_duration("2m"), Ok(SignedDuration::from_secs(120)));
    assert_eq!(parse_duration("0"), Ok(SignedDuration::ZERO));
    assert!(parse_duration("2 parsecs").is_err());
}

#[test]
fn a_container_is_finished_when_it_will_not_be_restarted() {
    let target = |policy: &str, rule: Option<Value>, code: i32, phase: &str, is_init: bool| {
        let mut container = json!({ "name": "c" });
        if let Some(rule) = rule {
            container["restartPolicyRules"] = json!([rule]);
        }
        let (mains, init) = match is_init {
            true => (json!([{ "name": "main" }]), json!([container])),
            false => (json!([container]), json!([])),
        };
        let record = json!({
            "uid": "u", "namespace": "default", "name": "p", "client": null, "supervisor": null, "vmm": null,
            "pod": {
                "apiVersion": "v1", "kind": "Pod", "metadata": {},
                "spec": { "containers": mains, "initContainers": init, "restartPolicy": policy },
            },
        });
        RecordedPod {
            record: serde_json::from_value(record).unwrap(),
            status: serde_json::from_value(json!({ "phase": phase, "containerStatuses": [ended("c", code)] })).unwrap(),
            is_terminating: false,
        }
    };
    let rule =
        |operator: &str| Some(json!({ "action": "Restart", "exitCodes": { "operator": operator, "values": [7] } }));
    for (policy, rule, code, phase, is_init, over) in [
        ("Always", None, 0, "Running", false, false),
        ("Always", None, 0, "Failed", false, true),
        ("OnFailure", None, 0, "Running", false, true),
        ("OnFailure", None, 1, "Running", false, false),
        ("Never", None, 1, "Running", false, true),
        ("Never", rule("In"), 7, "Running", false, false),
        ("Never", rule("NotIn"), 7, "Running", false, true),
        ("Always", None, 0, "Running", true, true),
        ("Always", None, 1, "Running", true, false),
    ] {
        let target = target(policy, rule.clone(), code, phase, is_init);
        assert_eq!(
            has_ended(&target, "c"),
            over,
            "{policy} {rule:?} {code} {phase} {is_init}"
        );
    }
}
