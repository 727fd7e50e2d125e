//! Changes of Pods that exist: images, labels, scheduling gates and finalizers.

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, image, shell_pod, wait_until};

const SERVE: &str = "echo $0 >> /data/starts; trap 'exit 0' TERM; sleep 1000 & wait";

fn pair(main_image: &str) -> Pod {
    let mounted = |container: Container| container.shell(SERVE).mount("data", "/data");
    Pod::named("changed")
        .restart_policy("Never")
        .grace_period_seconds(5)
        .empty_dir("data")
        .container(mounted(Container::new("main", main_image)))
        .container(mounted(container("other", SERVE)))
}

#[track_caller]
fn apply(pod: &Pod, outcome: &str) {
    let file = host().manifest(pod);
    let said = host().succeed(["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(said, format!("pod/{} {outcome}\n", pod.name()));
}

#[test]
fn a_container_with_another_image_restarts_and_the_pod_keeps_its_volumes() {
    let _alone = alone();
    let first = pair(&image("busybox"));
    let pod = Detached::start(&first);
    pod.wait_ready();
    let before = pod.get();
    apply(&first, "unchanged");
    apply(&pair(&image("small")).label("tier", "back"), "configured");
    wait_until("the container runs with its new image", || {
        let status = status_of(&pod.get(), "main").unwrap_or_default();
        status["image"] == image("small") && status["state"]["running"].is_object()
    });
    let after = pod.get();
    assert_eq!(pod.container("main")["restartCount"], 1, "{after}");
    for field in ["uid", "creationTimestamp", "name"] {
        assert_eq!(after["metadata"][field], before["metadata"][field]);
    }
    assert_eq!(after["status"]["podIP"], before["status"]["podIP"]);
    assert_eq!(after["metadata"]["labels"], json!({ "tier": "back" }));
    assert_eq!(after["metadata"]["generation"], 2);
    let version = |pod: &serde_json::Value| {
        let version = pod["metadata"]["resourceVersion"].as_str();
        version.and_then(|version| version.parse::<u64>().ok()).unwrap()
    };
    assert!(version(&before) < version(&after), "{after}");
    let starts = host().succeed([
        "exec",
        "changed",
        "-c",
        "main",
        "--",
        "/bin/sh",
        "-c",
        "wc -l < /data/starts",
    ]);
    assert!(starts.trim().parse::<u32>().unwrap() >= 3, "{starts}");
    let events = host().succeed(["events", "--for", "pod/changed", "-o", "json"]);
    assert!(
        events.contains("Container main definition changed, will be restarted"),
        "{events}"
    );
    let refused = host().output([
        "apply",
        "-f",
        host().manifest(&first.restart_policy("Always")).to_str().unwrap(),
    ]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("spec: Forbidden: pod updates may not change fields other than"),
        "{refused:?}"
    );
}

#[test]
fn a_gated_pod_starts_when_its_last_gate_is_removed() {
    let _alone = alone();
    let ungated = shell_pod("gated", "trap 'exit 0' TERM; sleep 1000 & wait");
    let gated = shell_pod("gated", "trap 'exit 0' TERM; sleep 1000 & wait")
        .set("spec.schedulingGates", json!([{ "name": "example.com/wait" }]));
    apply(&gated, "created");
    let pod = Detached("gated".to_owned());
    wait_until("the Pod has a status", || pod.get()["status"]["conditions"].is_array());
    let waiting = pod.get();
    assert_eq!(
        waiting["status"]["conditions"][0]["reason"], "SchedulingGated",
        "{waiting}"
    );
    assert!(waiting["spec"]["nodeName"].is_null(), "{waiting}");
    let table = host().succeed(["get", "pods", "gated"]);
    assert!(table.contains("SchedulingGated"), "{table}");
    apply(&ungated, "configured");
    pod.wait_ready();
    assert!(pod.get()["spec"]["nodeName"].is_string());
}

/// A Pod with a finalizer, which is removed when the test ends, even by a panic.
struct Held(Detached);

impl Held {
    fn pod(finalizers: &serde_json::Value) -> Pod {
        let script = "trap 'exit 0' TERM; sleep 1000 & wait";
        shell_pod("held", script).set("metadata.finalizers", finalizers.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if host().output(["get", "pod", "held"]).code() == 0 {
            let file = host().manifest(&Self::pod(&json!([])));
            let _ = host().output(["apply", "-f", file.to_str().unwrap()]);
        }
    }
}

#[test]
fn a_deleted_pod_stays_until_its_finalizers_are_removed() {
    let _alone = alone();
    apply(&Held::pod(&json!(["example.com/hold"])), "created");
    let held = Held(Detached("held".to_owned()));
    held.0.wait_ready();
    host().succeed(["delete", "pod", "held", "--now", "--wait=false"]);
    held.0.wait_phase("Succeeded");
    let ended = held.0.get();
    assert!(ended["metadata"]["deletionTimestamp"].is_string(), "{ended}");
    apply(&Held::pod(&json!([])), "configured");
    wait_until("the Pod is gone", || host().output(["get", "pod", "held"]).code() == 1);
}
