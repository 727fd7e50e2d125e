//! Changes of existing Pods: images, labels, scheduling gates and finalizers, and the three-way merge of `apply`.

use microkube_tests::manifest::{Container, Pod};
use serde_json::json;

use crate::detached_pod::{Detached, status_of};
use crate::host::{alone, container, host, image, processes, shell_pod, wait_until};
use crate::objects::{refuses, says};

/// Prints values that depend on the image, and runs until it is stopped.
const SERVE: &str = "id -un; pwd; echo $FROM; trap 'exit 0' TERM; sleep 1000 & wait";

fn pair(main_image: &str) -> Pod {
    let mounted = |container: Container| {
        let container = container.shell(SERVE).mount("data", "/data");
        container.mount("memory", "/memory")
    };
    Pod::named("changed")
        .restart_policy("Never")
        .grace_period_seconds(5)
        .empty_dir("data")
        .volume(json!({ "name": "memory", "emptyDir": { "medium": "Memory" } }))
        .container(mounted(Container::new("main", main_image)))
        .container(mounted(container("other", SERVE)))
}

/// Runs a command in a container of the Pod `changed`.
fn in_container(container: &str, script: &str) -> String {
    host().succeed(["exec", "changed", "-c", container, "--", "/bin/sh", "-c", script])
}

/// Waits until the container `main` of the Pod runs with this image.
fn wait_for_image(pod: &Detached, image: &str) {
    wait_until("the container runs with its new image", || {
        let status = status_of(&pod.get(), "main").unwrap_or_default();
        status["image"] == image && status["state"]["running"].is_object()
    });
}

#[track_caller]
fn apply(pod: &Pod, outcome: &str) {
    let file = host().manifest(pod);
    let said = host().succeed(["apply", "-f", file.to_str().unwrap()]);
    assert_eq!(said, format!("pod/{} {outcome}\n", pod.name()));
}

#[test]
fn a_container_with_another_image_restarts_alone_and_the_pod_keeps_its_volumes() {
    let _alone = alone();
    let first = pair(&image("busybox"));
    let pod = Detached::start(&first);
    pod.wait_ready();
    pod.wait_for_log("main", "root\n/\n\n");
    in_container(
        "other",
        "echo memory > /memory/kept; echo disk > /data/kept; echo root > /kept",
    );
    let before = pod.get();
    // `run` does not record a configuration.
    apply(&first, "configured");
    apply(&first, "unchanged");
    apply(&pair(&image("configured")).label("tier", "back"), "configured");
    wait_for_image(&pod, &image("configured"));
    let after = pod.get();
    assert_eq!(pod.container("main")["restartCount"], 1, "{after}");
    // The other container is not affected.
    assert_eq!(status_of(&after, "other"), status_of(&before, "other"));
    assert_eq!(in_container("main", "cat /memory/kept /data/kept"), "memory\ndisk\n");
    assert_eq!(
        in_container("other", "cat /memory/kept /data/kept /kept"),
        "memory\ndisk\nroot\n"
    );
    // The layers, user, working directory and variables of the container are those of the new image.
    pod.wait_for_log("main", "worker\n/srv/data\nfrom-image\n");
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
    let events = host().succeed(["events", "--for", "pod/changed", "-o", "json"]);
    assert!(
        events.contains("Container main definition changed, will be restarted"),
        "{events}"
    );
    assert!(!events.contains("SandboxChanged"), "{events}");
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
fn images_change_again_and_back_even_after_the_supervisor_has_died() {
    let _alone = alone();
    let pod = Detached::start(&pair(&image("busybox")));
    pod.wait_ready();
    let other = pod.container("other");
    for (restarts, name) in [(1, "configured"), (2, "busybox"), (3, "debian-tools")] {
        for supervisor in processes(&["supervise"]) {
            // SAFETY: kill(2) takes integers. The PID was found by the victim's command line a moment ago.
            unsafe { libc::kill(supervisor, libc::SIGKILL) };
            wait_until("it is gone", || !processes(&["supervise"]).contains(&supervisor));
        }
        apply(&pair(&image(name)), "configured");
        wait_for_image(&pod, &image(name));
        assert_eq!(pod.container("main")["restartCount"], restarts);
        assert_eq!(pod.container("other"), other);
    }
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
    let selector = |value: &str| format!(r#"patch pod gated -p {{"spec":{{"nodeSelector":{{"disk":"{value}"}}}}}}"#);
    says(&selector("fast"), 0, "pod/gated patched\n");
    let only_additions =
        "spec.nodeSelector: Invalid value: {\"disk\":\"slow\"}: only additions to spec.nodeSelector are allowed";
    refuses(&selector("slow"), only_additions);
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
    let file = host().manifest(&Held::pod(&json!([])));
    let warning = says(&format!("apply -f {}", file.display()), 0, "pod/held configured\n");
    assert_eq!(
        warning,
        "Warning: Detected changes to resource held which is currently being deleted.\n"
    );
    wait_until("the Pod is gone", || host().output(["get", "pod", "held"]).code() == 1);
}

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A Pod that waits to be scheduled, so it needs no virtual machine.
fn waiting(name: &str) -> Pod {
    shell_pod(name, "sleep 1000").set("spec.schedulingGates", json!([{ "name": "example.com/wait" }]))
}

#[test]
fn apply_of_a_pod_removes_what_left_the_file_and_keeps_what_others_set() {
    let _alone = alone();
    let first = waiting("merged").label("app", "one").label("tier", "front");
    apply(&first, "created");
    let pod = Detached("merged".to_owned());
    let annotation = |pod: &serde_json::Value| {
        let text = pod["metadata"]["annotations"][ANNOTATION].as_str().unwrap_or("null");
        serde_json::from_str::<serde_json::Value>(text).unwrap()
    };
    let kept = annotation(&pod.get());
    assert_eq!(
        kept["metadata"]["labels"],
        json!({ "app": "one", "tier": "front" }),
        "{kept}"
    );
    assert_eq!(kept["metadata"]["namespace"], "default");
    // The configuration is the author's, without defaults.
    assert!(
        kept["spec"]["dnsPolicy"].is_null() && kept["metadata"]["uid"].is_null(),
        "{kept}"
    );
    apply(&first, "unchanged");
    let described = host().succeed(["describe", "pod", "merged"]);
    assert!(!described.contains("last-applied"), "{described}");
    let shown = host().succeed(["get", "pod", "merged", "-o", "yaml"]);
    assert!(
        shown.contains(&format!("    {ANNOTATION}: |\n      {{\"apiVersion\"")),
        "{shown}"
    );

    says("label pod merged theirs=yes", 0, "pod/merged labeled\n");
    apply(&first, "unchanged");
    let second = waiting("merged").label("app", "two");
    let file = host().manifest(&second);
    let file = file.to_str().unwrap();
    let before = pod.get();
    says(
        &format!("apply -f {file} --dry-run=client"),
        0,
        "pod/merged configured (dry run)\n",
    );
    says(
        &format!("apply -f {file} --dry-run=server"),
        0,
        "pod/merged configured (server dry run)\n",
    );
    let differences = host().output(["diff", "-f", file]);
    assert_eq!(differences.code(), 1, "{differences:?}");
    for line in [
        "-    app: one",
        "+    app: two",
        "-    tier: front",
        "     theirs: \"yes\"",
    ] {
        assert!(
            differences.stdout.lines().any(|shown| shown == line),
            "{line}: {differences:?}"
        );
    }
    // `diff` does not show the annotation of the last applied configuration.
    let changed = |line: &str| line.starts_with(['+', '-']) && line.contains("apiVersion");
    assert!(!differences.stdout.lines().any(changed), "{differences:?}");
    // Labels do not count as a generation, and a dry run takes no version.
    let counted =
        |line: &str| line.starts_with(['+', '-']) && (line.contains("resourceVersion") || line.contains("generation"));
    assert!(!differences.stdout.lines().any(counted), "{differences:?}");
    assert_eq!(pod.get(), before);

    apply(&second, "configured");
    let after = pod.get();
    assert_eq!(after["metadata"]["labels"], json!({ "app": "two", "theirs": "yes" }));
    assert_eq!(annotation(&after)["metadata"]["labels"], json!({ "app": "two" }));
    says(&format!("diff -f {file}"), 0, "");
    apply(&second, "unchanged");

    let refused = second.grace_period_seconds(7);
    let refused = host().output(["apply", "-f", host().manifest(&refused).to_str().unwrap()]);
    assert_eq!((refused.code(), &*refused.stdout), (1, ""), "{refused:?}");
    let said = "The Pod \"merged\" is invalid: spec: Forbidden: pod updates may not change fields other than";
    assert!(refused.stderr.contains(said), "{refused:?}");
}

#[test]
fn the_first_apply_of_a_created_pod_warns_and_records_its_configuration() {
    let _alone = alone();
    let labelled = waiting("adopted").label("app", "one");
    let file = host().manifest(&labelled);
    let file = file.to_str().unwrap();
    says(&format!("create -f {file}"), 0, "pod/adopted created\n");
    let pod = Detached("adopted".to_owned());
    assert!(pod.get()["metadata"]["annotations"][ANNOTATION].is_null());
    let plain = host().manifest(&waiting("adopted"));
    let warning = says(&format!("apply -f {}", plain.display()), 0, "pod/adopted configured\n");
    assert!(
        warning.contains(
            "Warning: resource pods/adopted is missing the kubectl.kubernetes.io/last-applied-configuration annotation"
        ),
        "{warning}"
    );
    // No record shows that the label was in a file.
    assert_eq!(pod.get()["metadata"]["labels"], json!({ "app": "one" }));
    assert!(pod.get()["metadata"]["annotations"][ANNOTATION].is_string());
    let again = says(&format!("apply -f {}", plain.display()), 0, "pod/adopted unchanged\n");
    assert!(!again.contains("Warning"), "{again}");
    pod.delete();

    let file = host().manifest(&labelled);
    says(
        &format!("create --save-config -f {}", file.display()),
        0,
        "pod/adopted created\n",
    );
    let plain = host().manifest(&waiting("adopted"));
    let said = says(&format!("apply -f {}", plain.display()), 0, "pod/adopted configured\n");
    assert!(!said.contains("Warning"), "{said}");
    assert!(pod.get()["metadata"]["labels"].is_null());
}
